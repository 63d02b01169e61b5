"""Ambiguous messages through nginx and HAProxy, beside clients that check that each gets its own answers."""
