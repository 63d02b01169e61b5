"""The HTTP edge of every port: valid messages, limits of a connection, and protection from pages of other sites."""
