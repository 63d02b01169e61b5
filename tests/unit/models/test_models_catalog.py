"""The catalog: a store that is not as it must be is refused with the file and the remedy."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inferlane.contracts.traffic_split import Split
from inferlane.errors import ConfigurationError, UnknownModelError
from models.store_reader import load_catalog
from tests.support.fakes.records import make_catalog
from tests.support.fakes.stores import write_tiny_store


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(models_dir: Path) -> None:
        path = models_dir / "tiny" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda models_dir: (models_dir / "tiny" / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model.toml"), "inferlane models build-samples"),
        (remove("v1/model.onnx"), r"no model\.onnx"),
        (remove("v1/version.toml"), "the versions are: none"),
        (replace("model.toml", '"v1"', "v1"), "cannot read"),
        (replace("v1/version.toml", "digest", "checksum"), "digest"),
        (replace("v1/version.toml", "datatype", "dtype"), "datatype"),
        (lambda models_dir: (models_dir / "tiny" / "model.toml").write_bytes(b"\xff"), "cannot read"),
    ],
)
def test_a_store_that_is_not_whole_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_tiny_store(tmp_path)
    spoil(tmp_path)

    with pytest.raises(ConfigurationError, match=message):
        load_catalog(tmp_path, default_model="tiny")


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def grow(path: Path) -> None:
    path.write_text(path.read_text() + "".join(f"note{number} = {number}\n" for number in range(20_000)))


@pytest.mark.parametrize("name", ["model.toml", "v2/version.toml"])
@pytest.mark.parametrize(
    ("spoil", "message"), [(become_a_pipe, "is no file"), (become_a_device, "is no file"), (grow, "262144 bytes")]
)
def test_a_file_without_end_is_refused_and_holds_nobody(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    write_tiny_store(tmp_path)
    shutil.copytree(tmp_path / "tiny", tmp_path / "other")
    shutil.copytree(tmp_path / "other" / "v1", tmp_path / "other" / "v2")
    spoil(tmp_path / "other" / name)
    catalog = load_catalog(tmp_path, default_model="tiny")
    assert "tiny" in catalog.models
    [fault] = catalog.faults
    assert fault.model == "other"
    assert message in fault.reason


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the modes of files count, also where tests run as root. Relative: nobody may go all the way."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield Path()
    os.seteuid(user)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)


@contextmanager
def as_owner() -> Iterator[None]:
    user = os.geteuid()
    os.seteuid(os.getuid())
    yield
    os.seteuid(user)


@pytest.mark.parametrize(
    ("folder", "mode", "fault"),
    [
        ("other", 0o000, ("other", None)),
        ("other", 0o444, ("other", None)),
        ("other", 0o111, ("other", None)),
        ("tiny/v2", 0o000, ("tiny", "v2")),
        ("tiny/v2", 0o444, ("tiny", "v2")),
        ("tiny/v2/version.toml", 0o000, ("tiny", "v2")),
    ],
)
def test_what_may_not_be_read_is_named_and_the_rest_is_served(
    nobody: Path, folder: str, mode: int, fault: tuple[str, str | None]
) -> None:
    with as_owner():
        write_tiny_store(nobody / "store")
        shutil.copytree("store/tiny", "store/other")
        shutil.copytree("store/tiny/v1", "store/tiny/v2")
        (nobody / "store" / "lost+found").mkdir(mode=0o000)
        (nobody / "store" / folder).chmod(mode)
    catalog = load_catalog(nobody / "store", default_model="tiny")
    assert [(found.model, found.version) for found in catalog.faults] == [fault]
    assert "Permission denied" in catalog.faults[0].reason
    assert "v1" in catalog.model("tiny").versions


@pytest.mark.parametrize("mode", [0o000, 0o111])
def test_a_store_that_may_not_be_read_is_not_called_empty(nobody: Path, mode: int) -> None:
    with as_owner():
        write_tiny_store(nobody / "store")
        (nobody / "store").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"cannot read the models folder .*Permission denied") as refused:
        load_catalog(nobody / "store", default_model="tiny")
    assert "build-samples" not in str(refused.value)


@pytest.mark.parametrize("axis", [10**12, 10**20])
def test_a_row_that_no_memory_holds_is_refused(tmp_path: Path, axis: int) -> None:
    write_tiny_store(tmp_path)
    shutil.copytree(tmp_path / "tiny" / "v1", tmp_path / "tiny" / "v2")
    replace("v2/version.toml", "shape = [\n    -1,\n    3,\n]", f"shape = [-1, {axis}]")(tmp_path)
    [fault] = load_catalog(tmp_path, default_model="tiny").faults
    assert (fault.version, "a row has at most 67108864 values" in fault.reason) == ("v2", True)


def test_a_byte_order_mark_before_toml_is_passed_over(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    for path in (tmp_path / "tiny" / "model.toml", tmp_path / "tiny" / "v1" / "version.toml"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_catalog(tmp_path, default_model="tiny").faults == ()


def test_a_store_that_does_not_exist_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="inferlane models build-samples"):
        load_catalog(tmp_path / "nowhere", default_model="tiny")


def test_a_default_model_that_the_store_lacks_is_refused(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)

    with pytest.raises(ConfigurationError, match="INFERLANE_DEFAULT_MODEL"):
        load_catalog(tmp_path, default_model="iris")


def test_an_unknown_model_or_version_is_named_with_those_that_exist(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    catalog = load_catalog(tmp_path, default_model="tiny")

    with pytest.raises(UnknownModelError, match="'large'; there are: tiny"):
        catalog.model("large")
    with pytest.raises(UnknownModelError, match="'v9'; it has: v1"):
        catalog.model().version("v9")


def test_a_class_name_outside_ascii_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    replace("model.toml", '"a"', '"säge"')(tmp_path)

    assert load_catalog(tmp_path, default_model="tiny").model().version("v1").classes[0] == "säge"


@pytest.mark.parametrize(("weights", "version"), [({"v2": 1.0}, "v2"), ({"v1": 0.3, "v2": 0.7}, "v2"), ({}, "v1")])
def test_unpinned_requests_are_read_by_the_version_that_most_of_them_go_to(
    weights: dict[str, float], version: str
) -> None:
    split = Split(model="iris", weights=weights)

    assert make_catalog("v1", "v2").model().unpinned(split).version == version
