"""Kafka as we use it: clients with our settings, producing by the batch, consuming with tracked commits."""
