"""`python -m tests.manifests [--pod-security FOLDER] FILE…`: hold manifests to our rules; 1 if one breaks any.

FOLDER has `pass` and `fail` with the pods that Kubernetes tests its Pod Security level `restricted` with: our rules
must say the same of each, or they prove nothing.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from models.samples import SAMPLES
from tests.manifests.pod_security import pods_of, restricted_faults
from tests.manifests.rules import faults


def disagreements(folder: Path) -> Iterator[str]:
    """Yield each pod of Kubernetes' own tests of which our rules say something else."""
    paths = sorted(folder.glob("*/*.yaml"))
    if not paths:
        yield f"{folder} has no test pods"
    for path in paths:
        document = yaml.safe_load(path.read_text())
        if document["spec"].get("os", {}).get("name") == "windows":
            continue
        found = [fault for name, pod in pods_of([document]) for fault in restricted_faults(name, pod)]
        if bool(found) != (path.parent.name == "fail"):
            yield f"{path}: to {path.parent.name} by Kubernetes, and our rules say {found or 'nothing'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pod-security", type=Path, help="test pods of k8s.io/pod-security-admission")
    parser.add_argument("--version", action="append", help="MODEL/VERSION that the files are for; ours without one")
    parser.add_argument("files", type=Path, nargs="*")
    given = parser.parse_args()
    ours = [f"{SAMPLES[0].name}/{recipe.version}" for recipe in SAMPLES[0].recipes]
    versions = [(model, version) for model, _, version in (each.partition("/") for each in given.version or ours)]
    found = [f"{path}: {fault}" for path in given.files for fault in faults(path.read_text(), versions=versions)]
    if given.pod_security:
        found += disagreements(given.pod_security)
    print("\n".join(found) or f"{len(given.files)} files hold to our rules")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
