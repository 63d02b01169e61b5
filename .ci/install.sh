#!/usr/bin/env bash
# Installs the wheel as a user does, without a clone and without a compiler: in an empty folder, `uv tool install` and
# `inferlane up --samples` lead to a prediction; then `pip install` with every other Python that is at hand (3.11 to
# 3.14), where each process must load. The wheel and the source archive are what a package index would take.
# Needs .venv (./test.sh makes it).
set -euo pipefail
cd "$(dirname "$0")/.."

folder="$(mktemp -d)"
uv="$PWD/.venv/bin/uv"
# Without compilers on the path, a package that has no wheel for this Python fails instead of being built.
export CC=/bin/false CXX=/bin/false UV_TOOL_DIR="$folder/tools" UV_TOOL_BIN_DIR="$folder/bin"
trap '(cd "$folder/empty" && "$folder/bin/inferlane" down >/dev/null) || true; rm -rf "$folder"' EXIT

"$uv" build -q --out-dir "$folder/dist" .
.venv/bin/twine check --strict "$folder"/dist/*.whl "$folder"/dist/*.tar.gz
wheel=("$folder"/dist/*.whl)
.venv/bin/python -B - "${wheel[0]}" <<'PYTHON'
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
assert tops == {"inferlane", "control_plane", "producer_api", "router", "workers", "models", "dashboards"}, tops
strays = [name for name in names if {"tests", "benchmarks", "generator", "web"} & set(name.split("/")[:-1])]
assert not [name for name in strays if not name.startswith("dashboards/prometheus/tests/")], strays
for needed in ("inferlane/py.typed", "/licenses/LICENSE", "control_plane/starter/docker-compose.yml", "/sboms/"):
    assert any(needed in name for name in names), f"the wheel has no {needed}"
PYTHON

mkdir "$folder/empty"
cd "$folder/empty"
began=$SECONDS
"$uv" tool install -q --python "$OLDPWD/.venv/bin/python" "${wheel[0]}[models]"
export INFERLANE_API_PORT=18000 INFERLANE_BROKER_PORT=18092 INFERLANE_STORE_PORT=18379 INFERLANE_FIRST_OPS_PORT=18100 \
  INFERLANE_DASHBOARD_PORT=0
"$folder/bin/inferlane" init
"$folder/bin/inferlane" up --samples --detach
curl -sS --fail-with-body "localhost:$INFERLANE_API_PORT/v1/models/predict" -d '{"instances": [[5.1, 3.5, 1.4, 0.2]]}' |
  grep -q '"label":"setosa"'
echo "from an empty folder to a prediction: $((SECONDS - began)) s"
"$folder/bin/inferlane" down

for version in 3.11 3.12 3.13 3.14; do
  python="$("$uv" python find --no-managed-python "$version" 2>/dev/null)" || { echo "no Python $version here"; continue; }
  "$uv" venv -q --clear --seed --python "$python" "$folder/venv"
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "${wheel[0]}"
  "$folder/venv/bin/python" -B -c '
import dashboards.live.main, control_plane.local.local_stack, models, producer_api.main, router.main, workers.main
'
  "$folder/venv/bin/inferlane" --version
done
