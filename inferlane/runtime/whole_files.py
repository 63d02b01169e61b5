"""Files that are replaced whole: a reader sees the old one or the new one, never half of one."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Put `content` in the place of the file, in a folder that is there.

    What it is written to first is made anew, for nobody else to read and never through a link, and is gone if this
    fails.

    Raises:
        OSError: it cannot be written, and is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
