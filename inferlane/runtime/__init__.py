"""What a process of ours runs on: Kafka and Redis clients, settings, logs, metrics, traces and the ops port."""
