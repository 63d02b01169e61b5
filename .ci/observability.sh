#!/usr/bin/env bash
# The rules' unit tests, then every query of every dashboard and rule against a real Prometheus that scrapes a real stack
# under load. Debian or Ubuntu, root; needs .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/apt-install.sh prometheus

promtool check config dashboards/prometheus/prometheus.yml
promtool check rules dashboards/prometheus/rules/*.yml
promtool test rules dashboards/prometheus/tests/*.yml
.venv/bin/python -m pytest tests/observability
