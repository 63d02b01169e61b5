"""Checks manifests against the schemas of Kubernetes and of custom resources; every kind and key must be known.

Runs in the environment of `.ci/manifests.sh`, which has kubernetes-validate and its jsonschema. A misspelled key is
planted in each kind that has a schema first: a check that cannot fail would let everything pass.
"""

import argparse
import copy
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT7

KUBERNETES = "1.37.0"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
# Where the schemas of Kubernetes say that their common parts are.
DEFINITIONS = "/api/_definitions.json"
Document = dict[str, Any]
Kind = tuple[str, str]


def closed(schema: Any) -> Any:
    """Return a structural schema that refuses unknown keys, as the API server drops them in silence."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made = {key: value for key, value in made.items() if key != "type"}
    return made


def custom_schemas(paths: list[Path]) -> dict[Kind, Document]:
    """Return the schema of each kind that these definitions have."""
    found: dict[Kind, Document] = {}
    for path in paths:
        spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            # Closed by the API server's own types, not by the definition.
            schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def kubernetes_schema(kind: Kind) -> Document | None:
    """Return the strict schema of a kind of Kubernetes itself, if it is one."""
    group, _, version = kind[0].rpartition("/")
    name = "-".join(part for part in (kind[1].lower(), group.split(".")[0], version) if part)
    path = SCHEMAS / f"{name}.json"
    if not path.is_file():
        return None
    schema: Document = json.loads(path.read_text())
    return schema


@functools.cache
def definitions() -> Registry[Any]:
    """Return the parts that the schemas of Kubernetes share."""
    shared = json.loads((SCHEMAS / "_definitions.json").read_text())
    return Registry().with_resource(DEFINITIONS, DRAFT7.create_resource(shared))


def faults(document: Document, schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong, with the place."""
    for error in jsonschema.Draft7Validator(schema, registry=definitions()).iter_errors(document):
        yield f"{'.'.join(str(part) for part in error.absolute_path) or '(top)'}: {error.message[:300]}"


def main() -> int:
    """Print each fault; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crd", type=Path, action="append", default=[], help="a CustomResourceDefinition")
    parser.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    customs = custom_schemas(given.crd)
    checked, found, planted = 0, 0, set[Kind]()
    for path in given.files:
        for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
            kind = (document["apiVersion"], document["kind"])
            where = f"{path.name}: {kind[1]} {document['metadata']['name']}"
            schema = customs.get(kind) or kubernetes_schema(kind)
            told = (
                [f"{kind[0]} {kind[1]} is no kind that is known"] if schema is None else list(faults(document, schema))
            )
            if schema is not None and kind not in planted:
                planted.add(kind)
                misspelled = copy.deepcopy(document)
                misspelled.setdefault("spec", {})["misspeled"] = 1
                if not list(faults(misspelled, schema)):
                    told.append("a misspelled key in spec was not found: the schema is open")
            checked += 1
            found += len(told)
            for each in told:
                print(f"{where}: {each}", file=sys.stderr)  # noqa: T201 - what a person runs, prints
    print(f"{checked} objects of {len(planted)} kinds against their schemas, {found} faults")  # noqa: T201 - as above
    return int(found > 0 or checked == 0)


if __name__ == "__main__":
    sys.exit(main())
