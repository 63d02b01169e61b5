"""Publication: whenever a process is killed, the store holds all of a version or nothing, and the next cleans up."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from inferlane.errors import ConfigurationError
from models.adding.publication import check_free, preparation, publish, remove_version, write_default
from models.store_reader import load_catalog
from tests.support import graphs
from tests.support.fakes.stores import write_tiny_store

# Publishes a version, and is killed before its n-th step on the file system. Steps are what Python's own audit hooks
# see: each file that is opened, each folder that is made, each rename and removal.
KILLED = """
import os, signal, sys
from pathlib import Path
from inferlane.errors import ConfigurationError
from models.adding.publication import check_free, preparation, publish

store, source, model, steps = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
left = steps
def die(event, arguments):
    global left
    if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
with preparation(store) as scratch:
    folder = scratch / "version"
    folder.mkdir()
    for name in ("model.onnx", "version.toml"):
        (folder / name).write_bytes((source / name).read_bytes())
    publish(folder, store, model=model, version=None)
"""


def visible(store: Path) -> set[str]:
    return {
        str(path.relative_to(store))
        for path in store.rglob("*")
        if not path.relative_to(store).parts[0].startswith(".") and path.is_file()
    }


@pytest.mark.parametrize("model", ["tiny", "fresh"])
def test_a_publication_killed_at_any_step_leaves_all_or_nothing(tmp_path: Path, model: str) -> None:
    source = write_tiny_store(tmp_path / "source").parent
    store = tmp_path / "store"
    write_tiny_store(store)
    before = visible(store)
    files = {f"{model}/{'v2' if model == 'tiny' else 'v1'}/{name}" for name in ("model.onnx", "version.toml")}
    after = before | files | {f"{model}/model.toml"}
    outcomes = []
    while not outcomes or outcomes[-1] != 0:
        arguments = [str(store), str(source), model, str(len(outcomes) + 1)]
        outcomes.append(subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode)
        seen = visible(store)
        assert seen in (before, after), f"step {len(outcomes)}"
        assert not load_catalog(store, default_model="tiny").faults
        if seen == after:
            break
    with preparation(store) as scratch:
        assert [path for path in store.iterdir() if path.name.startswith(".")] == [scratch]
    assert [path for path in store.iterdir() if path.name.startswith(".")] == []
    assert outcomes.count(-signal.SIGKILL) > 10
    assert visible(store) == after


def test_an_addition_that_is_killed_is_cleaned_up_by_the_next_and_one_that_lives_is_not(tmp_path: Path) -> None:
    (tmp_path / "endless.onnx").write_bytes(graphs.endless().SerializeToString())
    store = tmp_path / "store"
    command = [sys.executable, "-m", "control_plane", "models", "add", str(tmp_path / "endless.onnx")]
    adding = subprocess.Popen(
        [*command, "--name", "endless", "--models-dir", str(store)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process = psutil.Process(adding.pid)
        while not (children := process.children()):
            assert adding.poll() is None
        with preparation(store):
            assert len(list(store.iterdir())) == 2
    finally:
        adding.kill()
        adding.wait()
    for child in children:
        child.kill()
    psutil.wait_procs(children)
    assert len(list(store.iterdir())) == 1

    with preparation(store) as scratch:
        assert list(store.iterdir()) == [scratch]


def test_a_folder_without_a_model_file_is_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "notes").mkdir(parents=True)

    with preparation(tmp_path) as scratch:
        (scratch / "version").mkdir()
        with pytest.raises(Exception, match=r"has no model\.toml"):
            publish(scratch / "version", tmp_path, model="tiny", version="v1")


def test_an_empty_folder_of_a_models_name_is_taken(tmp_path: Path) -> None:
    source = write_tiny_store(tmp_path / "source").parent
    store = tmp_path / "store"
    (store / "tiny").mkdir(parents=True)

    with preparation(store) as scratch:
        source.rename(scratch / "version")
        assert publish(scratch / "version", store, model="tiny", version=None).first

    assert [path.name for path in store.iterdir()] == ["tiny"]
    assert not load_catalog(store, default_model="tiny").faults


def prepared(scratch: Path) -> Path:
    # A store of its own: the scratch folder is locked while a version is prepared in it.
    return write_tiny_store(scratch / "source").parent


def test_a_retired_version_is_gone_whole_and_its_name_is_not_used_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for _ in range(2):
        with preparation(store) as scratch:
            publish(prepared(scratch), store, model="tiny", version=None)
    write_default(store, "tiny", "v2")
    assert load_catalog(store, default_model="tiny").model().default_version == "v2"
    with pytest.raises(ConfigurationError, match="default"):
        remove_version(store, "tiny", "v2")
    assert remove_version(store, "tiny", "v1")
    assert not remove_version(store, "tiny", "v1")
    catalog = load_catalog(store, default_model="tiny")
    assert (set(catalog.model().versions), catalog.faults) == ({"v2"}, ())
    with pytest.raises(ConfigurationError, match=r"tiny v1 was retired.*such as v3"):
        check_free(store, model="tiny", version="v1")
    assert remove_version(store, "tiny", "v2")
    assert not (store / "tiny").exists()
    with preparation(store) as scratch:
        assert publish(prepared(scratch), store, model="tiny", version=None).version == "v3"


def test_a_version_that_the_store_does_not_have_is_no_default(tmp_path: Path) -> None:
    assert not write_default(tmp_path, "tiny", "v1")
