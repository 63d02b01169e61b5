"""Replace a file whole: whoever reads it sees the old content or the new, and never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Replace the file with `content`, atomically, in a folder that exists.

    Raises:
        OSError: it cannot be written, and is as it was.
    """
    with _draft(path, mode) as file:
        file.write(content)


def write_durably(path: Path, content: bytes, *, mode: int) -> None:
    """As `write_whole`, and what was written outlives a power cut from the moment that this returns.

    Raises:
        OSError: it cannot be written, and is as it was; or the folder could not be flushed to the disk.
    """
    with _draft(path, mode) as file:
        file.write(content)
        file.flush()
        # Before the rename: the new name of a file whose bytes are only in memory is an empty file after a power cut.
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _draft(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a temporary file that takes the place of `path` at the end of the block; it is removed if that fails.

    It is always a new one, readable by this user only until then, and never reached through a link.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            os.fchmod(descriptor, mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
