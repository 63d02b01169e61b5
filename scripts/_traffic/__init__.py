"""Traffic for an Inferlane API: what is sent, when, and what came of it. Over HTTP only."""
