"""`prometheus-targets.json`: where Prometheus finds every process of the local stack, pools that grow included.

Source: Prometheus' `file_sd_config`, which reads the file again when it changes.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from inferlane.runtime.runfile import ProcessRecord
from inferlane.runtime.whole_files import write_whole


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
