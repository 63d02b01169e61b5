#!/usr/bin/env bash
# Prints the path of the Python that .venv is made with: that of INFERLANE_PYTHON, as python3.13 or a path; without it the
# first of those below that will do; with INFERLANE_PYTHON=fastest the one that takes the least CPU. A Python that was compiled without profile-guided
# optimisation, as pyenv does by default, takes a third more than that of a distribution, and the newest is not always the
# fastest, so they are tried.
set -euo pipefail

# Prints the microseconds of CPU of a small piece of work. Fails for what is too old, or cannot make environments.
# `python3` is let through without that: whoever makes the environment then says what to install.
microseconds_of() {
  "$1" -c '
import sys, time
if sys.version_info < (3, 11):
    sys.exit(1)
if sys.argv[1] != "python3":
    import ensurepip

def work():
    began, texts = time.process_time(), {}
    for number in range(100_000):
        texts[number & 255] = str(number)
    return time.process_time() - began

print(round(1e6 * min(work() for _ in range(9))))
' "$1" 2>/dev/null
}

case "${INFERLANE_PYTHON:-}" in
'' | fastest) ;;
*)
  if ! microseconds_of "$INFERLANE_PYTHON" >/dev/null; then
    printf 'error: INFERLANE_PYTHON=%s is no Python >= 3.11 that can make environments. Name another, or unset it.\n' \
      "$INFERLANE_PYTHON" >&2
    exit 1
  fi
  command -v "$INFERLANE_PYTHON"
  exit
  ;;
esac

best="" least=0
for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/local/bin/python3 /usr/bin/python3; do
  took="$(microseconds_of "$name")" || continue
  # Less than a seventh may be chance.
  if [[ -z "$best" ]] || ((7 * took < 6 * least)); then
    best="$name" least="$took"
  fi
  [[ "${INFERLANE_PYTHON:-}" == fastest ]] || break
done
if [[ -z "$best" ]]; then
  printf 'error: no Python >= 3.11 on PATH (python3 is: %s). Install one, or add it to PATH.\n' \
    "$(python3 --version 2>&1 || true)" >&2
  exit 1
fi
command -v "$best"
