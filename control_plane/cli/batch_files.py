"""The files of a bulk job: which it may write to, and results that appear under their own name once all are there."""

import os
import secrets
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from control_plane.cli.console import err
from inferlane.errors import ConfigurationError, quoted

_OTHER_FORMATS = {".csv", ".tsv", ".parquet"}
# They name files that are open already: those are written to, and never replaced.
_OPEN_FILES = tuple(map(Path, ("/dev/stdout", "/dev/stderr", "/dev/fd", "/proc")))


def check_files(rows: Path, *, out: Path, rejects: Path | None) -> None:
    """Return if rows can be read from a file, and JSON lines be written to the others.

    Raises:
        ConfigurationError: the rows are in no regular file, the output is a folder or by its name of another format,
            or one file is named for two of them.
    """
    # One that is not there is named in full when it is read.
    if rows.exists() and not rows.is_file():
        kind = "a folder" if rows.is_dir() else "no regular file"
        raise ConfigurationError(f"{quoted(str(rows))} is {kind}, and rows are read more than once; name a file")
    written = {"--out": out} if rejects is None else {"--out": out, "--rejects": rejects}
    for option, path in written.items():
        if path.is_dir():
            example = str(path / "results.jsonl")
            raise ConfigurationError(f"{option} {str(path)!r} is a folder; name a file, such as {example!r}")
        if str(path) == "-":
            raise ConfigurationError(f"{option} '-' is no name of a file; name one, or /dev/stdout")
    if out.suffix.lower() in _OTHER_FORMATS:
        raise ConfigurationError(
            f"--out {str(out)!r} ends in {out.suffix!r}, and results are JSON lines; name it "
            f"{str(out.with_suffix('.jsonl'))!r}"
        )
    for (one, first), (other, second) in combinations({"the rows": rows, **written}.items(), 2):
        if _is_same_file(first, second):
            raise ConfigurationError(
                f"{other} {str(second)!r} is the file of {one} ({str(first)!r}), which would be lost; name another file"
            )


@contextmanager
def results_written(out: Path) -> Iterator[BinaryIO]:
    """Yield a file for results. They appear under the name `out` when all are there, through its links.

    Each job has a file of its own until then, `OUT.….partial` beside it. If the job fails or is told to end, that file
    is removed if it is empty; else it stays and is named on standard error. A device or pipe is written to directly.

    Raises:
        OSError: it cannot be written.
    """
    if not _is_replaceable(out):
        # Where the shell appends to a file, so does what is written to it by its name in /dev.
        with out.open("ab") as file:
            yield file
        return
    target = Path(os.path.realpath(out))
    # Beside the file itself, which may be on another disk than a link to it; else by the name that the user gave.
    partial = (target if out.is_symlink() else out).with_suffix(f"{out.suffix}.{secrets.token_hex(4)}.partial")
    try:
        with _ended_by_signal(), partial.open("xb") as file:
            yield file
        partial.replace(target)
    except BaseException:
        if partial.exists():
            if partial.stat().st_size:
                err.print(f"not all rows were scored; the results so far are in {partial}", soft_wrap=True)
            else:
                partial.unlink()
        raise


def _is_replaceable(path: Path) -> bool:
    if any(path.absolute().is_relative_to(named) for named in _OPEN_FILES):
        return False
    return path.is_file() or not path.exists()


def _is_same_file(first: Path, second: Path) -> bool:
    """Whether both are one file, by whatever names; a device such as /dev/null can be written to twice."""
    if first.exists() and second.exists():
        return first.samefile(second) and not stat.S_ISCHR(first.stat().st_mode)
    return os.path.realpath(first) == os.path.realpath(second)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that what is half written is not left without a word."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
