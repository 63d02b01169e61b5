"""The base of every process: Kafka and Redis clients, settings, logs, metrics, traces and the ops port."""
