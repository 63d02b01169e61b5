"""`up.json`: who runs the local stack, and what it runs."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

# psutil and the kernel round the start of a process; a recycled pid begins much later.
_SAME_START_S = 0.05


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process as the supervisor last saw it; `pid` is 0 before its first start."""

    name: str
    pool: str
    pid: int
    create_time_s: float
    state: str
    restarts: int
    port: int
    # Where it answers /readyz and /metrics; empty for the broker and the store.
    ops_url: str
    log: str


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that the local autoscaler scales: what it wants, why it last changed, and what waits (None: not known)."""

    name: str
    workers: int
    least: int
    most: int
    reason: str
    lag_records: int | None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The whole stack. `phase` is `starting`, `ready`, `stopping` or `failed`; `failure` says why it failed."""

    pid: int
    create_time_s: float
    phase: str
    api_url: str
    environment: Mapping[str, str]
    processes: tuple[ProcessRecord, ...] = ()
    scaled_pools: tuple[PoolRecord, ...] = ()
    failure: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether the supervisor that wrote this still lives."""
        return lives(self.pid, self.create_time_s)


def lives(pid: int, create_time_s: float) -> bool:
    """Whether this very process runs: the pid, begun at that time, and not a zombie."""
    return same_process(pid, create_time_s) is not None


def same_process(pid: int, create_time_s: float) -> psutil.Process | None:
    """Return the process if it is still the one that was recorded, else nothing: a pid may belong to others now."""
    try:
        process = psutil.Process(pid) if pid > 0 else None
        if (
            process is None
            or abs(process.create_time() - create_time_s) > _SAME_START_S
            or process.status() == psutil.STATUS_ZOMBIE
        ):
            return None
    except psutil.Error:
        return None
    return process


class RunFile:
    """The file; written whole by the supervisor alone, read by anybody at any time."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "up.json"

    def write(self, record: RunRecord) -> None:
        """Replace the file at once, so that a reader sees the old or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        # The environment may hold the password of a store.
        draft.touch(mode=0o600)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
        draft.replace(self.path)

    def read(self) -> RunRecord | None:
        """Return the record; nothing if there is none, or it is of another release and cannot be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=RunRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
