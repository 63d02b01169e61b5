"""The logs of the local stack: appended to by each process, kept small by the supervisor while they run."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import structlog

if TYPE_CHECKING:
    from asyncio import StreamReader

log = structlog.get_logger(__name__)

# Each process has a log of at most this, and the one before it. Too small loses the history of a crash loop, too large
# fills the disk of a laptop.
LIMIT_BYTES = 8 * 1024 * 1024
_LOOK_EVERY_S = 1.0
_CHUNK_BYTES = 64 * 1024


def open_log(path: Path, *, anew: bool = False) -> BinaryIO:
    """Open a log to append to, never through a link: whoever may write to the folder must not choose what we write.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if anew else 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, flags, 0o644), "ab", buffering=0)


def rotate(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Set a log over the limit aside as `.log.1` and go on with an empty one, whoever writes to it meanwhile.

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


async def keep_small(paths: Callable[[], Iterable[Path]]) -> None:
    """Rotate each log that grows past its limit, until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            for path in set(paths()):
                await asyncio.to_thread(rotate, path)
        except Exception:  # no thread or file is to be had just now, say: the next look comes soon
            log.exception("logs_not_rotated")


async def append_all(stream: "StreamReader", path: Path) -> None:
    """Append what a program says to its log until it says no more; what cannot be written is dropped."""
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
