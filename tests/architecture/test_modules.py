"""The floor plan: no class and no module of the services is called like another, and none is too long to read."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import inferlane_client

REPOSITORY = Path(__file__).parents[2]
SERVICES = (
    "control_plane",
    "producer_api",
    "router",
    "workers",
    "models",
    "inferlane",
    "webhook_sender",
    "dashboards",
    "client",
)
# What Python or everybody expects to find under this name in a package.
ENTRIES = frozenset({"__init__.py", "__main__.py", "main.py", "app.py"})
# The client is installed without the services, and calls what its users see as the API does.
PUBLIC_IN_CLIENT = frozenset(inferlane_client.__all__)


CEILING_LINES = 300


def modules() -> Iterator[Path]:
    for service in SERVICES:
        yield from sorted((REPOSITORY / service).rglob("*.py"))


def twins(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        is_client = path.is_relative_to(REPOSITORY / "client")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not (is_client and node.name in PUBLIC_IN_CLIENT):
                places[node.name].append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert len(places) > 100
    assert not twins(places)


def test_no_module_name_stands_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        if path.name not in ENTRIES:
            places[path.name].append(str(path.relative_to(REPOSITORY)))
    assert len(places) > 100
    assert not twins(places)


def test_no_module_is_longer_than_can_be_read_in_one_go() -> None:
    lines = {str(path.relative_to(REPOSITORY)): path.read_text().count("\n") for path in modules()}
    assert not {name: count for name, count in lines.items() if count > CEILING_LINES}
