"""The router: request topics to version topics, and outcome summaries to windows."""
