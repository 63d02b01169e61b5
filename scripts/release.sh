#!/usr/bin/env bash
# Builds what a release consists of, into dist/ or the folder given: wheels and source archives of server and client, an
# SBOM (CycloneDX) of the wheel's and of the image's packages, the checksums, and an in-toto statement (SLSA provenance)
# that binds them to the commit. The image itself is built from the same commit: docs/operations.md.
# Needs .venv of requirements-dev.lock; refuses a tree with changes, which no commit describes.
set -euo pipefail
out="$(realpath -m "${1:-dist}")"
cd "$(dirname "$0")/.."

[[ -z "$(git status --porcelain)" ]] || { echo "error: the tree has changes; commit or remove them" >&2; exit 1; }
[[ ! -e $out || -z "$(ls -A "$out")" ]] || { echo "error: $out is not empty; remove it or name another folder" >&2; exit 1; }
began="$(date --utc +%Y-%m-%dT%H:%M:%SZ)"
# The same commit makes the same files.
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"
export SOURCE_DATE_EPOCH

.venv/bin/uv build -q --out-dir "$out" .
.venv/bin/uv build -q --out-dir "$out" ./client
rm -f "$out/.gitignore"
.venv/bin/twine check --strict "$out"/*.whl "$out"/*.tar.gz
for part in wheel image; do
  [[ $part == wheel ]] && lock=requirements.lock || lock=requirements-image.lock
  .venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
    --output-file "$out/inferlane-$part.cdx.json" "$lock"
done
(cd "$out" && sha256sum -- *.whl *.tar.gz *.cdx.json >SHA256SUMS)

.venv/bin/python - "$out" "$began" "$(git rev-parse HEAD)" <<'PYTHON'
import hashlib
import json
import pathlib
import sys
import time

folder, began, commit = pathlib.Path(sys.argv[1]), *sys.argv[2:]
lines = [line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text().splitlines()]
locks = sorted(pathlib.Path().glob("requirements*.lock"))
statement = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": name, "digest": {"sha256": digest}} for digest, name in lines],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {
        "buildDefinition": {
            "buildType": "urn:inferlane:scripts/release.sh:v1",
            "externalParameters": {"commit": commit},
            "resolvedDependencies": [
                {"name": "source", "digest": {"gitCommit": commit}},
                *(
                    {"name": lock.name, "digest": {"sha256": hashlib.sha256(lock.read_bytes()).hexdigest()}}
                    for lock in locks
                ),
            ],
        },
        "runDetails": {
            "builder": {"id": "urn:inferlane:scripts/release.sh"},
            "metadata": {"startedOn": began, "finishedOn": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        },
    },
}
(folder / "provenance.intoto.json").write_text(json.dumps(statement, indent=2) + "\n")
PYTHON
ls -1 "$out"
