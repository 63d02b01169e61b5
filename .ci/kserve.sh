#!/usr/bin/env bash
# KServe's client against a whole stack, in an environment of its own: it pins protobuf below what the server runs with.
# After a change of kserve.in:
#   uv pip compile .ci/kserve.in --python-version 3.11 --generate-hashes --no-header -o .ci/kserve.lock
set -euo pipefail
cd "$(dirname "$0")/.."

index="${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}"
[[ -z "$index" ]] || export UV_DEFAULT_INDEX="$index"
[[ -x .inferlane/kserve/bin/python ]] || .venv/bin/uv venv --quiet --python .venv/bin/python .inferlane/kserve
.venv/bin/uv pip sync --quiet --python .inferlane/kserve --require-hashes .ci/kserve.lock
.venv/bin/inferlane models build-samples
.venv/bin/python -m pytest -p no:warnings tests/kserve_client
