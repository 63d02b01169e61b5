"""The state directory of the local stack: run file, scrape targets and logs. A full disk stops no process."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import msgspec
import structlog

from inferlane.errors import ConfigurationError
from inferlane.runtime.runfile import ProcessRecord
from inferlane.runtime.whole_file import write_whole

if TYPE_CHECKING:
    from asyncio import StreamReader

    from inferlane.runtime.runfile import RunFile, RunRecord


class TargetGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One process. No label has a name that our metrics use, or Prometheus would rename theirs."""

    targets: tuple[str, ...]
    labels: dict[str, str]


def target_groups(processes: Sequence[ProcessRecord]) -> list[TargetGroup]:
    """Return the scrape targets: the processes with `/metrics`, which the embedded broker and store lack."""
    return [
        target_group(process.ops_url, component=process.pool.partition("-")[0], pool=process.pool, name=process.name)
        for process in processes
        if process.ops_url
    ]


def target_group(url: str, *, component: str, pool: str, name: str) -> TargetGroup:
    """Return the scrape target of what serves `/metrics` at `url`."""
    return TargetGroup(targets=(urlsplit(url).netloc,), labels={"component": component, "pool": pool, "process": name})


class TargetFile:
    """The file of scrape targets; only the supervisor writes it."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "prometheus-targets.json"

    def write(self, groups: Sequence[TargetGroup]) -> None:
        """Replace the file atomically, so that a reader sees the old or the new one.

        Raises:
            OSError: it cannot be written, and is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Prometheus may be another user.
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(groups)), mode=0o644)

    def remove(self) -> None:
        """Remove the file, so that Prometheus forgets the stack."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


log = structlog.get_logger(__name__)

_AGAIN_S = 5.0


class StateFiles:
    """Write the run file and the scrape targets, with retries. Used from one event loop."""

    def __init__(self, run_file: "RunFile", targets: "TargetFile", *, write_again: Callable[[], None]) -> None:
        """`write_again` is called a while after a write that failed."""
        self._run_file = run_file
        self._targets = targets
        self._write_again = write_again
        self._timer: asyncio.TimerHandle | None = None
        # Why the last write failed; empty when it did not.
        self.trouble = ""

    def write_first(self, record: "RunRecord") -> None:
        """Write the run file as the stack starts: without one, nobody would find the stack to stop it.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            self._run_file.write(record)
        except OSError as error:
            raise ConfigurationError(
                f"{self._run_file.path} cannot be written ({error.strerror}). Make room there or change its owner, "
                "or set INFERLANE_STATE_DIR to another folder."
            ) from error

    def write(self, record: "RunRecord", targets: Sequence[TargetGroup]) -> None:
        """Write the current state; if that fails, keep the files as they are and retry soon."""
        try:
            self._run_file.write(record)
            self._targets.write(targets)
        except OSError as error:
            if not self.trouble:
                log.warning(
                    "state_not_written",
                    path=str(self._run_file.path),
                    reason=error.strerror,
                    effect="the stack goes on; `inferlane status` shows what was, until this can be written",
                )
            self.trouble = error.strerror or repr(error)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_AGAIN_S, self._try_again)
        else:
            if self.trouble:
                log.info("state_written_again", path=str(self._run_file.path))
            self.trouble = ""

    def remove(self) -> None:
        """Remove the files as the stack ends; one that cannot be removed is left, and names an ended process."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._run_file.remove()
            self._targets.remove()
        except OSError as error:
            log.warning("state_not_removed", path=str(self._run_file.path), reason=error.strerror)

    def _try_again(self) -> None:
        self._timer = None
        self._write_again()


# Each process has a log of at most this, and the one before it. Too small loses the history of a crash loop, too large
# fills the disk of a laptop.
LIMIT_BYTES = 8 * 1024 * 1024
_LOOK_EVERY_S = 1.0
_CHUNK_BYTES = 64 * 1024


def open_log(path: Path, *, anew: bool = False) -> BinaryIO:
    """Open a log for appending, never through a link, so that others cannot redirect what we write.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if anew else 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, flags, 0o644), "ab", buffering=0)


def rotate(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Copy a log over the limit to `.log.1` and truncate it, while processes write to it.

    Copied and cut rather than renamed: its process has it open, and programs of others never open it again. They
    append, so that they go on at the new end. Without room for the copy the log is only cut.
    """
    with suppress(OSError):
        if path.stat().st_size <= limit_bytes:
            return
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "r+b") as file:
            aside = path.with_suffix(".log.1")
            try:
                aside.unlink(missing_ok=True)
                with open_log(aside) as copy:
                    shutil.copyfileobj(file, copy)
            except OSError:
                with suppress(OSError):
                    aside.unlink()
            file.truncate(0)


def _rotate_all(paths: Iterable[Path]) -> None:
    for path in paths:
        rotate(path)


async def keep_small(paths: Callable[[], Iterable[Path]]) -> None:
    """Rotate each log that grows past its limit, until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            # In one thread for all: an idle supervisor would change threads once for each process.
            await asyncio.to_thread(_rotate_all, set(paths()))
        except Exception:  # no thread or file is to be had just now, say: the next look comes soon
            log.exception("logs_not_rotated")


async def append_all(stream: "StreamReader", path: Path) -> None:
    """Append a program's output to its log until the stream ends; output that cannot be written is dropped."""
    is_written = True
    while chunk := await stream.read(_CHUNK_BYTES):
        try:
            with open_log(path) as file:
                file.write(chunk)
            is_written = True
        except OSError as error:
            if is_written:
                log.warning("log_not_written", path=str(path), reason=error.strerror)
            is_written = False
