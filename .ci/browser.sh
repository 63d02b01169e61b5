#!/usr/bin/env bash
# Checks that the committed page of the live dashboard is what its sources build, and drives it in a real Chromium before
# a real stack. Screenshots go to .inferlane/screenshots. Needs .venv and the sample models (./test.sh makes both);
# Debian or Ubuntu, root, where Node or Chromium is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(chromium)
command -v npm >/dev/null || packages+=(nodejs npm)
.ci/apt-install.sh "${packages[@]}"

(cd dashboards/live/web && npm ci --silent && npm run --silent build)
if [[ -n "$(git status --porcelain -- dashboards/live/static)" ]]; then
  git --no-pager diff --stat -- dashboards/live/static
  echo "dashboards/live/static is not what dashboards/live/web builds: run 'npm run build' there and commit" >&2
  exit 1
fi

.venv/bin/python -m pytest tests/browser
