#!/usr/bin/env bash
# Builds the wheel, installs it with what requirements.lock names and nothing else, and loads every process from it.
# Needs .venv (./test.sh makes it).
set -euo pipefail
cd "$(dirname "$0")/.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
.venv/bin/uv build -q --wheel --out-dir "$folder/dist" .
.venv/bin/uv venv -q --python .venv/bin/python "$folder/venv"
.venv/bin/uv pip sync -q --python "$folder/venv" --require-hashes requirements.lock
.venv/bin/uv pip install -q --python "$folder/venv" --no-deps "$folder"/dist/*.whl
# Not from the clone: its packages would be found before those of the wheel.
cd "$folder"
venv/bin/python -B -c '
import dashboards.live.main, inferlane.stack.running, models, producer_api.main, router.main, workers.main
'
venv/bin/inferlane --help >/dev/null
