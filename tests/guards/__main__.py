"""Takes each mechanism of `guards.toml` out of a copy of the tree and shows that its test fails then.

    python -m tests.guards [name …]

One process for each guard, forked from this one after the libraries are loaded: what a guard costs is its test.
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
class Guard:
    """`old` in `file` is the mechanism; with `new` in its place `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def read_guards(path: Path) -> list[Guard]:
    return [Guard(name=name, **fields) for name, fields in tomllib.loads(path.read_text()).items()]


def take_out(guard: Guard, tree: Path) -> None:
    """Break the copy in `tree`; a mechanism that is not there exactly once is a mistake in the guard."""
    broken = tree / guard.file
    text = broken.read_text()
    if text.count(guard.old) != 1:
        raise SystemExit(f"{guard.name}: {guard.file} holds the mechanism {text.count(guard.old)} times, not once")
    broken.write_text(text.replace(guard.old, guard.new))


def try_guard(guard: Guard, folder: Path) -> None:
    """In a process of its own: end with the exit code of pytest, its output in `folder/log`."""
    tree = folder / "tree"
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, tree / part, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy2(REPOSITORY / CONFIG, tree)
    take_out(guard, tree)
    output = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in PARTS]:
        del sys.modules[name]
    quiet = ["-q", "-x", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*quiet, "-c", str(tree / CONFIG), str(tree / guard.test)])
    sys.stdout.flush()
    os._exit(code)


def is_seen_to_fail(guard: Guard, folder: Path, process: "ForkProcess") -> bool:
    """Say what became of a guard whose process has ended."""
    # Any other code than "tests failed" is a mistake in the guard: it did not run, or it passed.
    fails = process.exitcode == pytest.ExitCode.TESTS_FAILED
    print(f"{'fails' if fails else 'PASSES'}  {guard.name}: {guard.test}", flush=True)
    if not fails and (folder / "log").exists():
        print((folder / "log").read_text()[-2000:], flush=True)
    return fails


def main(names: list[str]) -> int:
    for library in LIBRARIES:
        importlib.import_module(library)
    guards = [guard for guard in read_guards(HERE / "guards.toml") if not names or guard.name in names]
    waiting = list(guards)
    running: dict[int, tuple[Guard, Path, ForkProcess]] = {}
    seen_to_fail = 0
    deadline_s = time.monotonic() + TIMEOUT_S * (len(guards) + 1)
    with tempfile.TemporaryDirectory() as root:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                guard = waiting.pop(0)
                folder = Path(root, guard.name)
                folder.mkdir()
                process = FORK.Process(target=try_guard, args=(guard, folder))
                process.start()
                running[process.sentinel] = (guard, folder, process)
            ended = connection.wait(list(running), timeout=deadline_s - time.monotonic())
            if not ended:
                for _, _, process in running.values():
                    process.kill()
                raise SystemExit(f"gave up after {TIMEOUT_S} s a guard")
            for sentinel in ended:
                guard, folder, process = running.pop(sentinel)
                process.join()
                seen_to_fail += is_seen_to_fail(guard, folder, process)
                shutil.rmtree(folder)
    print(f"{seen_to_fail} of {len(guards)} tests fail without what they guard")
    return 0 if guards and seen_to_fail == len(guards) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
