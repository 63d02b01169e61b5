"""Files that a worker's store lacks: pulled whole, verified by digest, and pulled once."""

from pathlib import Path

import msgspec
import pytest

from inferlane.contracts.catalog_entry import CatalogEntry
from inferlane.errors import ConfigurationError
from models.catalog_entries import entry_of_store
from models.pulling import pull
from tests.support.fakes.stores import write_tiny_store
from tests.support.fakes.zoo import add_version, save_external


@pytest.fixture
def entry(tmp_path: Path) -> CatalogEntry:
    write_tiny_store(tmp_path / "store")
    return entry_of_store(tmp_path / "store", "tiny", "v1", generation=1, default_since=1)


def test_a_version_is_pulled_once_and_is_the_one_of_the_store(tmp_path: Path, entry: CatalogEntry) -> None:
    cache = tmp_path / "cache"
    version = pull(entry, cache)
    assert version.path.read_bytes() == Path(entry.location, "model.onnx").read_bytes()
    assert version.path.parent == cache / entry.digest.removeprefix("sha256:")
    gone = msgspec.structs.replace(entry, location="/nowhere")
    assert pull(gone, cache) == version
    assert [path.name for path in cache.iterdir()] == [version.path.parent.name]


def test_external_data_comes_along(tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "store")
    add_version(tmp_path / "store", "external", save_external)
    entry = entry_of_store(tmp_path / "store", "tiny", "external", generation=1, default_since=0)
    located = msgspec.structs.replace(entry, location=f"file://{entry.location}")
    assert (pull(located, tmp_path / "cache").path.parent / "w.bin").is_file()


def test_other_files_than_those_of_the_entry_are_refused_and_not_kept(tmp_path: Path, entry: CatalogEntry) -> None:
    onnx = Path(entry.location, "model.onnx")
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    with pytest.raises(ConfigurationError, match="says 103"):
        pull(entry, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_that_were_changed_after_they_were_pulled_are_refused(tmp_path: Path, entry: CatalogEntry) -> None:
    onnx = pull(entry, tmp_path / "cache").path
    onnx.write_bytes(b"")
    with pytest.raises(ConfigurationError):
        pull(entry, tmp_path / "cache")


def test_a_folder_that_cannot_be_written_to_is_named_with_its_setting(tmp_path: Path, entry: CatalogEntry) -> None:
    """It was a traceback, and every rendered pod has a read-only root file system."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot write to '.*file/pulled': Not a directory. Set INFERLANE_S"):
        pull(entry, tmp_path / "file" / "pulled")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("ftp://models/tiny/v1", "workers pull from folders"),
        ("/nowhere", "no version in '/nowhere'"),
    ],
)
def test_a_place_that_has_no_files_is_named(tmp_path: Path, entry: CatalogEntry, location: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        pull(msgspec.structs.replace(entry, location=location), tmp_path / "cache")
