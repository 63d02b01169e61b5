"""The files in which the supervisor shows the stack. Showing is not serving: a disk that is full ends nothing."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from control_plane.local.scraping import TargetFile
    from inferlane.runtime.runfile import ProcessRecord, RunFile, RunRecord

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
