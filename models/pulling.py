"""Files of a version that a worker's store lacks: pulled from where the catalogue says, verified, kept by digest."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from inferlane.contracts.catalog_entry import CatalogEntry
from inferlane.errors import ConfigurationError
from models.artifact import check_artifact, read_artifact
from models.catalog import ModelVersion
from models.catalog_entries import version_of_entry
from models.object_stores import Download, open_store

_UNFINISHED = ".pulling-"
# Of a version that is downloaded: its digest is known, but a folder may hold other files too.
_MOST_BYTES = 64 * 1024**3


def pull(entry: CatalogEntry, cache: Path) -> ModelVersion:
    """Return the version with its files in `cache`, which gets them first if it does not have them.

    They are there whole or not at all: whoever else pulls the same version at the same time does no harm.

    Raises:
        ConfigurationError: the files cannot be had, or are not those of the entry.
    """
    home = cache / entry.digest.removeprefix("sha256:")
    if not (home / "model.onnx").is_file():
        scratch = _scratch_folder(entry, cache)
        try:
            fresh = scratch / "fresh"
            _fetch(entry, fresh)
            _check(entry, fresh)
            if not home.exists():
                fresh.rename(home)
        except OSError as error:
            raise ConfigurationError(f"cannot pull {entry.key} from {entry.location!r}: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _check(entry, home)


def _scratch_folder(entry: CatalogEntry, cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=cache, prefix=_UNFINISHED))
    except OSError as error:
        raise ConfigurationError(
            f"cannot pull {entry.key}: cannot write to {str(cache)!r}: {error.strerror}. Set INFERLANE_STATE_DIR to a "
            "folder that this process may write to, with room for the files."
        ) from error


def _check(entry: CatalogEntry, folder: Path) -> ModelVersion:
    version = version_of_entry(entry, folder=folder)
    artifact = read_artifact(version.path, version.files)
    check_artifact(version.path, artifact, digest=entry.digest, size_bytes=version.size_bytes)
    return version


def _fetch(entry: CatalogEntry, target: Path) -> None:
    scheme = urlsplit(entry.location).scheme
    try:
        fetch = _FETCHERS[scheme]
    except KeyError:
        raise ConfigurationError(
            f"the files of {entry.key} are at {entry.location!r}, and workers pull from folders that they can read, "
            "and from s3, gs and az. Name one of these: inferlane models serve --location FOLDER"
        ) from None
    fetch(entry.location, target)


def _copy(location: str, target: Path) -> None:
    """Copy a folder that this machine can read, such as one on a shared volume."""
    source = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
    if not (source / "model.onnx").is_file():
        raise ConfigurationError(f"there is no version in {str(source)!r}, where the catalogue says that one is")
    shutil.copytree(source, target)


def _download(location: str, target: Path) -> None:
    """Download a folder of an object store; credentials are those of the worker's environment."""
    target.mkdir()
    Download(open_store(location), location, target, _MOST_BYTES).everything()


# By the scheme of the location: each writes the folder of a version to the path that it is given.
_FETCHERS: Mapping[str, Callable[[str, Path], None]] = {
    **dict.fromkeys(("", "file"), _copy),
    **dict.fromkeys(("s3", "gs", "az"), _download),
}
