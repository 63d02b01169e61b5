#!/usr/bin/env bash
# Makes .venv hold exactly what the lock file (an argument, from the root of the clone) names, this project and its client.
# Takes seconds when nothing changed. Needs Python >= 3.11 and a package index, nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly LOCK="${1:?usage: $0 LOCK_FILE}"
readonly DEV_LOCK=requirements-dev.lock

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# What an environment made from this lock file would be: its lock, the projects' metadata, and where it is, because
# an environment cannot be moved (a link to it can).
fingerprint() {
  .venv/bin/python - "$1" pyproject.toml client/pyproject.toml <<'PYTHON'
import hashlib, os, pathlib, sys

parts = [pathlib.Path(path).read_bytes() for path in sys.argv[1:]]
print(hashlib.sha256(b"\0".join([*parts, os.path.realpath(".venv").encode(), sys.version.encode()])).hexdigest())
PYTHON
}

is_current() {
  [[ -f "$STAMP" && -f "$1" && "$(cat "$STAMP")" == "$(fingerprint "$1")" ]]
}

readonly STAMP=.venv/.inferlane-setup
if .venv/bin/python -c '' 2>/dev/null; then
  # The tests' environment holds everything that running needs, so it is left alone.
  if is_current "$LOCK" || is_current "$DEV_LOCK"; then
    exit 0
  fi
else
  python="$(.ci/find-python.sh)"
  printf 'making .venv with %s (%s)\n' "$python" "$("$python" --version)"
  "$python" -m venv --clear .venv ||
    fail "$python cannot make environments. On Debian and Ubuntu: apt-get install python3-venv"
fi

rm -f "$STAMP"
printf 'installing %s\n' "$LOCK"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r .ci/uv.lock
# uv does not read pip's configuration: where pip was told of an index, uv is told of it too.
if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]]; then
  index="${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}"
  [[ -z "$index" ]] || export UV_DEFAULT_INDEX="$index"
fi
.venv/bin/uv pip sync --quiet --python .venv --require-hashes "$LOCK"
.venv/bin/uv pip install --quiet --python .venv --no-deps --editable . --editable ./client
# Compiled once here, not by each of the processes that start at the same time; also where the environment says not to.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c \
  'import control_plane.cli.main as commands; commands.command_line(); import control_plane.local.local_stack, producer_api.main, router.main, workers.main, dashboards.live.main, inferlane_client'
fingerprint "$LOCK" >"$STAMP"
