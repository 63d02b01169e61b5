#!/usr/bin/env bash
# What shows a stack to people: the rules' unit tests; that the committed page of the live dashboard is what its sources
# build; then, on one real stack, that page in a real Chromium, and every query of every dashboard and rule against a real
# Prometheus under load. Screenshots go to .inferlane/screenshots. Needs .venv and the sample models (./test.sh makes
# both); Debian or Ubuntu, root, where Prometheus, Node or Chromium is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(prometheus chromium)
command -v npm >/dev/null || packages+=(nodejs npm)
.ci/apt-install.sh "${packages[@]}"

promtool check config dashboards/prometheus/prometheus.yml
promtool check rules dashboards/prometheus/rules/*.yml
promtool test rules dashboards/prometheus/tests/*.yml

(cd dashboards/live/web && npm ci --silent && npm run --silent build)
if [[ -n "$(git status --porcelain -- dashboards/live/static)" ]]; then
  git --no-pager diff --stat -- dashboards/live/static
  echo "dashboards/live/static is not what dashboards/live/web builds: run 'npm run build' there and commit" >&2
  exit 1
fi

.venv/bin/python -m pytest --durations=10 tests/browser tests/observability
