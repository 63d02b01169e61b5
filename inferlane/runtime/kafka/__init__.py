"""Kafka: clients with our settings, batch producers, consumers with tracked commits, lag."""
