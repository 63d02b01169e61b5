"""The HTTP API: it writes requests to a topic and returns results as HTTP responses."""
