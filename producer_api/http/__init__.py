"""HTTP: bodies, callers, problem documents and the OpenAPI document."""
