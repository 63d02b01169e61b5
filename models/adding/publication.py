"""Publication: a version becomes part of the store, or leaves it, by one rename; no reader sees a part of it.

A version is prepared in a folder of the store whose name begins with a dot, which no reader looks into, under a file
lock that ends with its process. What a killed process leaves behind is removed by the next one.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from inferlane.contracts.naming import check_model_name, check_version_name, pool_key
from inferlane.errors import ConfigurationError
from models.artifact import read_artifact
from models.files import read_model_file, version_folders
from models.store import VersionAbout, version_toml, write_model

_PREPARED = ".adding-"
# The folder of the store with an empty folder for each version that was retired.
RETIRED = ".retired"
_NUMBERED = re.compile(r"v([0-9]{1,9})(?![0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version that is in the store; `first` if the model has come with it."""

    model: str
    version: str
    folder: Path
    first: bool


@contextmanager
def preparation(models_dir: Path) -> Iterator[Path]:
    """A folder on the file system of the store to prepare a version in; it is gone afterwards, whatever happens.

    Raises:
        ConfigurationError: the store cannot be written to.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with locked(models_dir):
            remove_leftovers(models_dir)
            folder = Path(tempfile.mkdtemp(dir=models_dir, prefix=_PREPARED))
            own = _lock(folder, fcntl.LOCK_EX)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the models folder {str(models_dir)!r} (INFERLANE_MODELS_DIR): {error}"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(own)


def remove_leftovers(models_dir: Path) -> None:
    """Remove what processes that are gone have left in the store, while its lock is held."""
    for folder in models_dir.glob(f"{_PREPARED}*"):
        try:
            descriptor = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # Its process lives, or it is somebody else's.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder while the block runs: one process at a time changes a store."""
    descriptor = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, how: int) -> int:
    """Lock the folder itself: the lock ends with the process, however that ends. Returns what to close."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_free(models_dir: Path, *, model: str, version: str) -> None:
    """Return if the store can take a version of this name.

    Raises:
        InvalidNameError: no topic could be called so.
        ConfigurationError: it is there already, or cannot be told from another one.
    """
    check_model_name(model)
    check_version_name(version)
    if (models_dir / RETIRED / model / version).exists():
        raise ConfigurationError(
            f"{model} {version} was retired, and the name of a version is never used again: its results may still be "
            f"read. Give it another name, such as {next_version(models_dir, model)}."
        )
    if (models_dir / model / version).exists():
        raise ConfigurationError(
            f"{model} {version} is in the store already, and versions are never changed. Give it "
            f"another name, such as {next_version(models_dir, model)}."
        )
    wanted = pool_key(model, version)
    for other, taken in _names_in(models_dir):
        if pool_key(other, taken) == wanted:
            raise ConfigurationError(
                f"{model} {version} could not be told from {other} {taken}, which is in the store: case, dots, dashes "
                "and underscores do not count. Choose another name."
            )


def next_version(models_dir: Path, model: str) -> str:
    """The version after the last one of a model: v1, v2, and so on."""
    known = [*_names_in(models_dir), *_names_in(models_dir / RETIRED)]
    numbers = [int(found[1]) for name, version in known if name == model if (found := _NUMBERED.match(version))]
    number = max(numbers, default=0) + 1
    taken = {pool_key(*pair) for pair in known}
    while pool_key(model, f"v{number}") in taken:
        number += 1
    return f"v{number}"


def publish(prepared: Path, models_dir: Path, *, model: str, version: str | None, description: str = "") -> Published:
    """Make the folder of a version, which is in the store's file system, a version of the store by one rename.

    A model that is not there yet comes with its first version in the same rename. Without `version` it gets the next
    free one. One process publishes at a time.

    Raises:
        InvalidNameError: no topic could be called so.
        ConfigurationError: the version is there already, or the store cannot be written to.
    """
    try:
        with locked(models_dir):
            name = version or next_version(models_dir, model)
            check_free(models_dir, model=model, version=name)
            home = models_dir / model
            first = not home.exists() or (home.is_dir() and not any(home.iterdir()))
            if first:
                _rename_with_model(prepared, home, name, description)
            else:
                _rename(prepared, home, name)
    except OSError as error:
        raise ConfigurationError(f"cannot write to the models folder {str(models_dir)!r}: {error}") from error
    return Published(model=model, version=name, folder=home / name, first=first)


def _rename_with_model(prepared: Path, home: Path, version: str, description: str) -> None:
    whole = prepared.with_name("model") / home.name
    write_model(whole, description=description, default_version=version, classes=())
    _sync(prepared)
    prepared.rename(whole / version)
    _sync(whole)
    # An empty folder of that name is replaced; one that holds something is not.
    whole.rename(home)
    _sync(home.parent)


def _rename(prepared: Path, home: Path, version: str) -> None:
    if not (home / "model.toml").is_file():
        raise ConfigurationError(f"{home} has no model.toml. Write one, or move the folder away.")
    _sync(prepared)
    prepared.rename(home / version)
    _sync(home)


def _sync(folder: Path) -> None:
    """Have the files of a folder, and their names, on the disk: a rename must not outlive what it renamed."""
    for path in (folder, *folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _names_in(models_dir: Path) -> list[tuple[str, str]]:
    """Every model and version in the store, served or not."""
    found: list[tuple[str, str]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for home in sorted(models_dir.iterdir()):
            if home.is_dir() and not home.name.startswith("."):
                with suppress(OSError):
                    found += [(home.name, path.name) for path in sorted(home.iterdir()) if path.is_dir()]
    return found


def remove_version(models_dir: Path, model: str, version: str) -> bool:
    """Remove a version from the store, its model with the last one, and keep its name; False if it was not there.

    It is gone by one rename: no reader sees a part of it.

    Raises:
        ConfigurationError: it is the default of a model that has others, or the store cannot be written to.
    """
    home = models_dir / model
    if not (home / version).exists():
        return False
    others = [path.name for path in version_folders(home) if path.name != version]
    if others and read_model_file(home).default_version == version:
        raise ConfigurationError(
            f"{home / 'model.toml'} says that {version} is the default version of {model}. Make another one the "
            f"default first: inferlane models default {model}/{others[0]}"
        )
    with preparation(models_dir) as scratch:
        try:
            with locked(models_dir):
                (models_dir / RETIRED / model / version).mkdir(parents=True, exist_ok=True)
                (home / version).rename(scratch / "version")
                if not version_folders(home):
                    home.rename(scratch / "model")
        except OSError as error:
            raise ConfigurationError(f"cannot remove {model} {version} from {str(models_dir)!r}: {error}") from error
    return True


def write_default(models_dir: Path, model: str, version: str) -> bool:
    """Make a version of the store the default of its model; False if the store does not have it.

    Raises:
        ConfigurationError: the store cannot be written to.
    """
    home = models_dir / model
    if not (home / version).exists():
        return False
    about = read_model_file(home)
    try:
        write_model(home, description=about.description, default_version=version, classes=about.classes)
    except OSError as error:
        raise ConfigurationError(f"cannot write {home / 'model.toml'}: {error}") from error
    return True


def write_version(
    models_dir: Path,
    *,
    model: str,
    version: str,
    write_onnx: Callable[[Path], None],
    describe: Callable[[Path], VersionAbout],
) -> None:
    """Write one version, whole or not at all.

    `write_onnx` fills the path that it is given and `describe` then measures it; whatever either raises leaves the
    store as it was. A version of the same name is replaced: between two renames there is none, and a crash there
    leaves the model without it until the next build.
    """
    check_model_name(model)
    check_version_name(version)
    with preparation(models_dir) as scratch:
        fresh = scratch / "fresh"
        fresh.mkdir()
        onnx = fresh / "model.onnx"
        write_onnx(onnx)
        (fresh / "version.toml").write_text(version_toml(describe(onnx), read_artifact(onnx)), encoding="utf-8")
        target = models_dir / model / version
        with locked(models_dir):
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                target.rename(scratch / "replaced")
            fresh.rename(target)
