"""The predict call: from its request body through the queue to its response."""
