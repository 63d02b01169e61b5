"""The store: what is written is what the catalog reads, and nothing unfinished is ever seen."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.adding.publication import write_version
from models.store import digest_of
from models.store_reader import load_catalog
from tests.support.fakes.stores import SIGNATURE, describe_tiny, write_tiny_onnx, write_tiny_store


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_catalog_reads_what_the_store_wrote(tmp_path: Path) -> None:
    onnx = write_tiny_store(tmp_path)

    model = load_catalog(tmp_path, default_model="tiny").model()
    version = model.version("v1")

    assert (model.description, model.default_version, version.classes) == ("Tiny", "v1", ("a", "b", "c"))
    assert (version.path, version.signature, version.quantization) == (onnx, SIGNATURE, "none")
    assert (version.digest, version.size_bytes) == (digest_of(onnx), onnx.stat().st_size)
    assert version.metrics == {"held_out_accuracy": 0.75, "cpu": "a CPU"}
    assert version.quantized == {}


def test_the_store_holds_only_finished_files(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)

    assert set(files_of(tmp_path)) == {"tiny/model.toml", "tiny/v1/model.onnx", "tiny/v1/version.toml"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("failing", ["write_onnx", "describe"])
def test_a_version_that_fails_to_build_leaves_the_store_as_it_was(tmp_path: Path, failing: str) -> None:
    write_tiny_store(tmp_path)
    before = files_of(tmp_path)

    def fail(_: Path) -> None:
        raise OSError("no space left")

    steps = {"write_onnx": write_tiny_onnx, "describe": describe_tiny, failing: fail}
    with pytest.raises(OSError, match="no space left"):
        write_version(tmp_path, model="tiny", version="v1", **steps)  # type: ignore[arg-type]  # one step is broken

    assert files_of(tmp_path) == before


def test_an_unfinished_version_is_not_in_the_catalog(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    seen = []

    def look_then_write(path: Path) -> None:
        seen.append(set(load_catalog(tmp_path, default_model="tiny").model().versions))
        write_tiny_onnx(path)

    write_version(tmp_path, model="tiny", version="v2", write_onnx=look_then_write, describe=describe_tiny)

    assert seen == [{"v1"}]
    assert set(load_catalog(tmp_path, default_model="tiny").model().versions) == {"v1", "v2"}


def test_a_version_of_the_same_name_is_replaced_whole(tmp_path: Path) -> None:
    onnx = write_tiny_store(tmp_path)
    (onnx.parent / "left-over").touch()
    first = digest_of(onnx)

    write_tiny_store(tmp_path, operator="Sigmoid")

    assert digest_of(onnx) != first
    assert load_catalog(tmp_path, default_model="tiny").model().version("v1").digest == digest_of(onnx)
    assert not (onnx.parent / "left-over").exists()


def test_every_file_of_the_store_can_be_read_by_another_user(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)

    paths = list((tmp_path / "tiny").rglob("*"))

    assert paths
    assert all(path.stat().st_mode & 0o004 for path in paths)


_READ_AT_ONCE = """
import os, sys, threading
import subprocess
import sys
from pathlib import Path
from models.store_reader import load_catalog

folder, failed = Path(sys.argv[1]), 0
for _ in range(60):
    child = os.fork()
    if child == 0:
        sys.setswitchinterval(1e-5)
        together = threading.Barrier(4)
        def read():
            together.wait()
            load_catalog(folder, default_model="tiny")
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
print(failed)
"""


def test_threads_may_read_a_store_at_once_though_it_is_the_first_read(tmp_path: Path) -> None:
    """Guards `_DESCRIBED` in `models.files`: without it about one child in five dies of SIGSEGV."""
    write_tiny_store(tmp_path)
    done = subprocess.run([sys.executable, "-c", _READ_AT_ONCE, tmp_path], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")
