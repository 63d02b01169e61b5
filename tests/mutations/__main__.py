"""Takes each mechanism of `mutations.toml` out of a copy of the tree and shows that its test fails then.

    python -m tests.mutations [name …]

One process for each mutation, forked from this one after the libraries are loaded: what a mutation costs is its test.
"""

import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

FORK = multiprocessing.get_context("fork")
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PARTS = ["inferlane", "control_plane", "producer_api", "router", "workers", "models", "tests"]
CONFIG = "pyproject.toml"
# Whatever takes long to import and is none of ours: ours must come from the copy.
LIBRARIES = [
    "aiokafka",
    "fastapi",
    "faust",
    "hypothesis",
    "numpy",
    "onnxruntime",
    "prometheus_client",
    "redis",
    "simdjson",
]
TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`old` in `file` is the mechanism; with `new` in its place `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def read_mutations(path: Path) -> list[Mutation]:
    return [Mutation(name=name, **fields) for name, fields in tomllib.loads(path.read_text()).items()]


def take_out(mutation: Mutation, tree: Path) -> None:
    """Break the copy in `tree`; a mechanism that is not there exactly once is a mistake in the mutation."""
    broken = tree / mutation.file
    text = broken.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.file} holds the mechanism {text.count(mutation.old)} times, not once"
        )
    broken.write_text(text.replace(mutation.old, mutation.new))


def try_mutation(mutation: Mutation, folder: Path) -> None:
    """In a process of its own: end with the exit code of pytest, its output in `folder/log`."""
    tree = folder / "tree"
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, tree / part, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy2(REPOSITORY / CONFIG, tree)
    take_out(mutation, tree)
    output = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in PARTS]:
        del sys.modules[name]
    quiet = ["-q", "-x", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*quiet, "-c", str(tree / CONFIG), str(tree / mutation.test)])
    sys.stdout.flush()
    os._exit(code)


def is_seen_to_fail(mutation: Mutation, folder: Path, process: "ForkProcess") -> bool:
    """Say what became of a mutation whose process has ended."""
    # Any other code than "tests failed" is a mistake in the mutation: it did not run, or it passed.
    fails = process.exitcode == pytest.ExitCode.TESTS_FAILED
    print(f"{'fails' if fails else 'PASSES'}  {mutation.name}: {mutation.test}", flush=True)
    if not fails and (folder / "log").exists():
        print((folder / "log").read_text()[-2000:], flush=True)
    return fails


def main(names: list[str]) -> int:
    for library in LIBRARIES:
        importlib.import_module(library)
    mutations = [
        mutation for mutation in read_mutations(HERE / "mutations.toml") if not names or mutation.name in names
    ]
    waiting = list(mutations)
    running: dict[int, tuple[Mutation, Path, ForkProcess]] = {}
    seen_to_fail = 0
    deadline_s = time.monotonic() + TIMEOUT_S * (len(mutations) + 1)
    with tempfile.TemporaryDirectory() as root:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                mutation = waiting.pop(0)
                folder = Path(root, mutation.name)
                folder.mkdir()
                process = FORK.Process(target=try_mutation, args=(mutation, folder))
                process.start()
                running[process.sentinel] = (mutation, folder, process)
            ended = connection.wait(list(running), timeout=deadline_s - time.monotonic())
            if not ended:
                for _, _, process in running.values():
                    process.kill()
                raise SystemExit(f"gave up after {TIMEOUT_S} s a mutation")
            for sentinel in ended:
                mutation, folder, process = running.pop(sentinel)
                process.join()
                seen_to_fail += is_seen_to_fail(mutation, folder, process)
                shutil.rmtree(folder)
    print(f"{seen_to_fail} of {len(mutations)} tests fail without what they guard")
    return 0 if mutations and seen_to_fail == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
