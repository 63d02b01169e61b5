"""The zoo: every model is added, and one stack serves them all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from models.adding.addition import Addition, add
from models.catalog import Catalog
from models.store_reader import load_catalog
from tests.support.folder_stack import FolderStack
from tests.zoo.menagerie import ANIMALS, Animal

_DEFAULT = "pipeline"


@dataclass(frozen=True, kw_only=True)
class Zoo:
    stack: FolderStack
    animals: dict[str, Animal]
    catalog: Catalog
    folder: Path

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.stack.environment['INFERLANE_BROKER_PORT']}"


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("zoo")
    with threadpool_limits(limits=1):
        found = {name: make() for name, make in ANIMALS.items()}

    def added(name: str) -> None:
        animal = found[name]
        source = folder / "sources" / name / animal.file
        source.parent.mkdir(parents=True)
        animal.write(source)
        addition = Addition(
            source=str(source),
            model=name,
            version=None,
            models_dir=folder / "models",
            check=None,
            tolerance=1e-4,
            timeout_s=300.0,
            **animal.options,
        )
        add(addition, say=lambda _: None)

    # Each is converted and checked in processes of its own: two of them keep two cores at work.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(added, found))
    stack = FolderStack(folder)
    stack.environment["INFERLANE_DEFAULT_MODEL"] = _DEFAULT
    try:
        started = stack.run("up", "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield Zoo(
            stack=stack,
            animals=found,
            catalog=load_catalog(folder / "models", default_model=_DEFAULT),
            folder=folder,
        )
    finally:
        stopped = stack.run("down")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
