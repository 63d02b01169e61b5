"""What an operator runs: the CLI, the local stack, autoscaling, Kubernetes manifests, bulk jobs and replay."""
