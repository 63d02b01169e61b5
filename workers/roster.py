"""The roster of a shared worker: the versions that it was started with, or those that a file names now."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError, InvalidNameError, quoted
from inferlane.runtime.logs import LastError

log = structlog.get_logger(__name__)

# Seconds between looks at the file. Each look is one system call.
_LOOK_S = 0.25
_COMMENT = "#"

VersionName = tuple[str, str]
"""A model and its version."""


def parse_version_names(lines: Iterable[str], *, source: str) -> frozenset[VersionName]:
    """Read `model/version` names, one an item; blank ones and comments are passed over.

    Raises:
        ConfigurationError: an item has another form; the message names `source` and the rule.
    """
    names = set()
    for line in lines:
        text = line.partition(_COMMENT)[0].strip()
        if not text:
            continue
        model, slash, version = text.partition("/")
        try:
            check_model_name(model)
            check_version_name(version)
        except InvalidNameError as error:
            raise ConfigurationError(
                f"{source}: {quoted(text)} is no version: {error}"
                if slash
                else f"{source}: {quoted(text)} is no version; write MODEL/VERSION, such as fraud/v3."
            ) from error
        names.add((model, version))
    return frozenset(names)


def write_version_names(names: Iterable[VersionName]) -> str:
    """Return the contents of a file with these versions."""
    return "".join(f"{model}/{version}\n" for model, version in sorted(names))


class Roster:
    """The versions, as a set that changes if it comes from a file. Used from one event loop."""

    def __init__(self, fixed: frozenset[VersionName] = frozenset(), *, file: Path | None = None) -> None:
        self._fixed = fixed
        self._file = file

    async def follow(self, stop: asyncio.Event) -> AsyncIterator[frozenset[VersionName]]:
        """Yield the versions now, and whenever they change, until `stop` is set.

        A file that cannot be read later changes nothing: the versions that were read last are served.

        Raises:
            ConfigurationError: the file cannot be read at the start.
        """
        # Before the file is read, so that a change meanwhile is not missed.
        seen = self._stamp()
        names = self._read()
        last_error = LastError()
        yield names
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._file is None else _LOOK_S):
                    await stop.wait()
            if (stamp := self._stamp()) == seen:
                continue
            try:
                fresh = self._read()
            except ConfigurationError as error:
                if last_error.is_news(error):
                    log.warning("roster_not_read", error=str(error), effect="the versions stay as they are")
                continue
            seen = stamp
            last_error.clear()
            if fresh != names:
                names = fresh
                yield names

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> frozenset[VersionName]:
        if self._file is None:
            return self._fixed
        try:
            text = self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"cannot read the versions in {self._file}: {error}. Write one MODEL/VERSION a line."
            ) from error
        return self._fixed | parse_version_names(text.splitlines(), source=str(self._file))
