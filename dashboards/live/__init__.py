"""The live dashboard: one page that shows the flow of requests as it is, and lets a person change the split."""
