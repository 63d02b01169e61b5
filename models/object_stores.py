"""Folders of object stores and web servers, by obstore: downloaded up to a number of bytes."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice, product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from inferlane.errors import ConfigurationError, clipped, quoted

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# A person waits.
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
# A stalled connection ends early, and a large file takes as long as it takes: the library's own limit of 30 s is for
# the whole of a file. A server that sends a byte at a time is given up in the end.
TIME_LIMITS = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "4h"}
# Object stores take them from the environment, as all else: given otherwise they would replace what stands there.
_STORES = ("AWS", "GOOGLE", "AZURE")
_CHUNK_BYTES = 4 * 1024 * 1024
# A folder with more is no model, but a bucket.
_MOST_FILES = 200
_MIB = 1024 * 1024
_SHOWN_CHARS = 300


def open_store(url: str) -> "ObjectStore":
    """Open a folder of an object store or of a web server; credentials come from the environment.

    Raises:
        ConfigurationError: the extra is not installed, or the URL names none.
    """
    try:
        from obstore.store import from_url  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{url} needs 'obstore', which is not installed: pip install 'inferlane[remote]'"
        ) from error
    options: Any = {}
    if url.startswith(("http:", "https:")):
        options = {"client_options": {**TIME_LIMITS, "allow_http": url.startswith("http:")}}
    for prefix, (name, limit) in product(_STORES, TIME_LIMITS.items()):
        os.environ.setdefault(f"{prefix}_{name.upper()}", limit)
    store: ObjectStore = explained(url, lambda: from_url(url, retry_config=_RETRIES, **options))
    return store


def explained(named: str, call: Callable[[], Any]) -> Any:
    """Call a library that fetches; what it raises has no base that we could import without it.

    Raises:
        ConfigurationError: it raised something.
    """
    try:
        return call()
    except ConfigurationError:
        raise
    except Exception as error:
        # The first line says what it is; the rest is the library's own state.
        reason = clipped(str(error).strip().partition("\n")[0], limit_chars=_SHOWN_CHARS)
        raise ConfigurationError(f"{quoted(named, limit_chars=200)} cannot be fetched: {reason}") from error


class Download:
    """Downloads from one folder of a store, up to a number of bytes in all."""

    def __init__(self, store: "ObjectStore", named: str, folder: Path, limit_bytes: int) -> None:
        self._store = store
        self._named = named
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._bytes = 0

    def everything(self) -> None:
        """Download all files of the folder."""
        names = explained(self._named, lambda: list(islice(self._listed(), _MOST_FILES + 1)))
        if not names:
            raise ConfigurationError(f"{quoted(self._named)} holds no file. Is it the folder of a model?")
        if len(names) > _MOST_FILES:
            raise ConfigurationError(f"{quoted(self._named)} holds more than {_MOST_FILES} files: name one model")
        for name in names:
            self.file(name)

    def file(self, name: str) -> None:
        """Download one file of the folder, by its name below it."""
        explained(self._named, lambda: self._download(name))

    def _listed(self) -> Iterator[str]:
        for chunk in self._store.list():
            for entry in chunk:
                yield entry["path"]

    def _download(self, name: str) -> None:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
            raise ConfigurationError(f"{quoted(self._named)} names a file outside of its folder: {quoted(name)}")
        path = self._folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in self._store.get(name).stream(min_chunk_size=_CHUNK_BYTES):
                self._bytes += len(chunk)
                check_size(self._named, self._bytes, self._limit_bytes)
                file.write(chunk)


def check_size(named: str, size_bytes: int, limit_bytes: int) -> None:
    """Return if a download is within its limit.

    Raises:
        ConfigurationError: it is not.
    """
    if size_bytes > limit_bytes:
        raise ConfigurationError(
            f"{quoted(named)} has more than {limit_bytes / _MIB:,.0f} MiB, which is the limit; raise it with --max-mib"
        )
