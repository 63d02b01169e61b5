"""`python -m tests.manifests.chart TEMPLATED KUSTOMIZED`: whether Helm and kustomize make the same objects.

The Namespace is left out: a chart's namespace is made by who installs it. The order of environment variables, and that
of a user's rights, mean nothing to Kubernetes and are not compared.
"""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

_UNORDERED = frozenset({"env", "acls", "volumes", "volumeMounts"})


def objects_of(text: str) -> dict[str, str]:
    """Return each object of a YAML stream in one spelling, by its kind and name."""
    documents = (document for document in yaml.safe_load_all(text) if document)
    return {
        f"{document['kind']}/{document['metadata']['name']}": json.dumps(_spelled(document), sort_keys=True, indent=1)
        for document in documents
        if document["kind"] != "Namespace"
    }


def _spelled(value: Any, *, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _spelled(inner, key=name) for name, inner in value.items()}
    if isinstance(value, list):
        items = [_spelled(inner) for inner in value]
        return sorted(items, key=partial(json.dumps, sort_keys=True)) if key in _UNORDERED else items
    return value


def differences(templated: str, kustomized: str) -> Iterable[str]:
    """Yield a line for each object that only one of them has, and for the first line in which two differ."""
    ours, theirs = objects_of(templated), objects_of(kustomized)
    yield from (f"{name} is made by kustomize only" for name in sorted(theirs.keys() - ours.keys()))
    yield from (f"{name} is made by Helm only" for name in sorted(ours.keys() - theirs.keys()))
    for name in sorted(ours.keys() & theirs.keys()):
        pairs = zip(ours[name].splitlines(), theirs[name].splitlines(), strict=False)
        if ours[name] != theirs[name]:
            yield f"{name}: {next((pair for pair in pairs if pair[0] != pair[1]), 'one has more')}"


def main() -> None:
    found = list(differences(*(Path(path).read_text(encoding="utf-8") for path in sys.argv[1:3])))
    for line in found:
        print(f"error: {line}", file=sys.stderr)  # noqa: T201 - what a person runs, prints
    print(f"{sys.argv[1]}: as {sys.argv[2]}" if not found else f"{len(found)} differences")  # noqa: T201 - as above
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
