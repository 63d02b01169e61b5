"""The HTTP edge of every port: what a message must be, what it may cost, and who may send it from a browser."""
