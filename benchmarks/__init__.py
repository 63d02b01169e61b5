"""Inferlane side by side with what a user would pick instead; `benchmarks/README.md` has the results."""
