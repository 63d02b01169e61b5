#!/usr/bin/env bash
# Stops what ./start.sh started; requests that were taken are finished first.
set -euo pipefail
cd "$(dirname "$0")"

if [[ ! -x .venv/bin/inferlane ]]; then
  echo "nothing to stop: ./start.sh has not run here"
  exit 0
fi
exec .venv/bin/inferlane down
