#!/usr/bin/env bash
# Starts Inferlane on this machine: sets up .venv, builds the sample models, runs the whole stack in the background and
# returns when each model version has answered a request. Arguments go to `inferlane up` (see `--help` there).
# Needs Python >= 3.11 and a package index; no Docker, no Java. Everything lives in .venv and .inferlane.
set -euo pipefail
cd "$(dirname "$0")"

.ci/setup-venv.sh requirements.lock
.venv/bin/inferlane models build-samples
.venv/bin/inferlane up --detach "$@"

cat <<'NEXT'

Next:
  .venv/bin/python scripts/demo.py        a tour that checks what it shows
  .venv/bin/python scripts/load_test.py   requests per second and latencies on this machine
  .venv/bin/inferlane status              each process
  .venv/bin/inferlane doctor              what is broken, and the remedy
  ./stop.sh                               stop everything
NEXT
