"""Ordinary FastAPI routes: everything but the hot calls."""
