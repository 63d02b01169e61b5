"""The live dashboard: one page that shows the current flow of requests, and lets a person change the traffic split."""
