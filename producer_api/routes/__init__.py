"""Ordinary FastAPI routes: everything except the predict call."""
