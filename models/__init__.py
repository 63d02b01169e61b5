"""The catalog of what can be served, and the tools that build it."""
