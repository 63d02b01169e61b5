"""The local stack: start, supervise and stop broker, store and services on one machine."""
