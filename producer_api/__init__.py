"""The HTTP edge: request to topic, result to HTTP. HTTP lives here alone."""
