"""Rollouts: what is compared, what is decided, and the member that decides."""
