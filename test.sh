#!/usr/bin/env bash
# Sets up what the tests need and runs them all: lint, types, architecture, unit to end-to-end.
# Needs Python >= 3.11 and the package registry; no Docker, no Java, nothing running.
set -euo pipefail
cd "$(dirname "$0")"

.ci/setup-venv.sh requirements-dev.lock
bin=.venv/bin

step() { printf '\n== %s (at %d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

step lint
"$bin/ruff" check .
"$bin/ruff" format --check .
step types
"$bin/mypy"
step architecture
"$bin/lint-imports"
step "sample models"
"$bin/inferlane" models build-samples
if (($#)); then
  step tests
  "$bin/python" -m pytest "$@"
else
  step "unit tests"
  "$bin/python" -m pytest -n auto tests/architecture tests/unit
  step "tests on a real broker and a real store"
  "$bin/python" -m pytest -n auto --dist worksteal --durations=10 tests/contract tests/integration
  # One after the other: a stack wants the whole machine, and that of the end-to-end tests stays until they all are done.
  step "faults, rollouts, and end to end"
  "$bin/python" -m pytest --durations=10 tests/faults tests/rollouts tests/e2e
fi
