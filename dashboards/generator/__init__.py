"""The Grafana dashboards as code; `python -m dashboards.generator` writes `dashboards/grafana/*.json`."""
