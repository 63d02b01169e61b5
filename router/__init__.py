"""The router: topic to version topic, and outcomes to windows."""
