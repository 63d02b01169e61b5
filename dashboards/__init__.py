"""What shows a deployment to a person: the live page, and the files of Grafana and Prometheus."""
