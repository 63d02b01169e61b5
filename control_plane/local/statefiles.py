"""The files in which the supervisor shows the stack. Showing is not serving: a disk that is full ends nothing."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import structlog

from inferlane.errors import ConfigurationError
from inferlane.runtime.runfile import ProcessRecord
from inferlane.runtime.whole_files import write_whole

if TYPE_CHECKING:
    from inferlane.runtime.runfile import RunFile, RunRecord


class TargetGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One process. No label has a name that our metrics use, or Prometheus would rename theirs."""

    targets: tuple[str, ...]
    labels: dict[str, str]


def target_groups(processes: Sequence[ProcessRecord]) -> list[TargetGroup]:
    """The processes that have `/metrics`; the embedded broker and store have none."""
    return [
        TargetGroup(
            targets=(urlsplit(process.ops_url).netloc,),
            labels={"component": process.pool.partition("-")[0], "pool": process.pool, "process": process.name},
        )
        for process in processes
        if process.ops_url
    ]


class TargetFile:
    """The file; written whole by the supervisor alone."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "prometheus-targets.json"

    def write(self, processes: Sequence[ProcessRecord]) -> None:
        """Replace the file at once, so that a reader sees the old or the new one.

        Raises:
            OSError: it cannot be written, and is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Prometheus may be another user.
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(target_groups(processes))), mode=0o644)

    def remove(self) -> None:
        """Let Prometheus forget the stack."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


log = structlog.get_logger(__name__)

_AGAIN_S = 5.0
# What a run file and a log need to go on for a while.
_ENOUGH_BYTES = 16 * 1024 * 1024
_TRIED_BYTES = 64 * 1024


class StateFiles:
    """Writes the run file and the list of scrape targets; what fails is tried again. One event loop."""

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

    def write(self, record: "RunRecord", processes: "Sequence[ProcessRecord]") -> None:
        """Write what there is to show now, or keep what the files say and try again soon."""
        try:
            self._run_file.write(record)
            self._targets.write(processes)
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
        """Take the files away as the stack ends; one that cannot be is left, and names a process that is gone."""
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


def folder_fault(folder: Path) -> str | None:
    """Why nothing can be written to the state directory, or that it is almost full; None if all is well."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}): what the run file and the logs say may be old"
    if free_bytes < _ENOUGH_BYTES:
        return f"{folder} has {free_bytes / 2**20:.1f} MiB left, logs and the run file want {_ENOUGH_BYTES / 2**20:.0f}"
    return None
