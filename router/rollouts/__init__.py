"""Rollouts: the evidence, the decisions, and the router that decides."""
