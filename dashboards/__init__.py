"""The dashboards: the live page, and the files for Grafana and Prometheus."""
