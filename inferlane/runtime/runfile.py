"""The run file `up.json`: the supervisor of the local stack and its processes."""

import ipaddress
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from inferlane.errors import UNDECODABLE, ConfigurationError
from inferlane.runtime.whole_file import write_whole

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
    # The URL of /readyz and /metrics; empty for the broker and the store.
    ops_url: str
    log: str
    # Why its last start failed.
    fault: str = ""
    # The versions that share it, as `model/version`; none of a process of one version.
    versions: tuple[str, ...] = ()


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that the local autoscaler scales: desired size, reason of the last change, and lag (None: unknown)."""

    name: str
    workers: int
    least: int
    most: int
    reason: str
    lag_records: int | None


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a version, or without a version a whole model, is not served."""

    model: str
    version: str | None
    reason: str


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
    # Versions that are served, and those that cannot be.
    served: int = 0
    faults: tuple[FaultRecord, ...] = ()
    # The release that started the stack.
    release: str = ""
    # Problems outside the data path, which goes on.
    troubles: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return lives(self.pid, self.create_time_s)


def lives(pid: int, create_time_s: float) -> bool:
    """Return whether exactly this process runs: the pid, started at that time, and not a zombie."""
    return same_process(pid, create_time_s) is not None


def same_process(pid: int, create_time_s: float) -> psutil.Process | None:
    """Return the process if it is still the recorded one, else None: another process may have its pid now.

    A process of another user was not started by our stack.
    """
    try:
        process = psutil.Process(pid) if pid > 0 else None
        if (
            process is None
            or process.uids().real != os.getuid()
            or abs(process.create_time() - create_time_s) > _SAME_START_S
            or process.status() == psutil.STATUS_ZOMBIE
        ):
            return None
    except psutil.Error:
        return None
    return process


class RunFile:
    """The file; written whole by the supervisor alone, read by anybody of the same user at any time."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "up.json"

    def write(self, record: RunRecord) -> None:
        """Replace the file atomically, so that a reader sees the old or the new one.

        Raises:
            OSError: it cannot be written, and is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Readable by this user only: the environment may hold the password of a store.
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(record)), mode=0o600)

    def read(self) -> RunRecord | None:
        """Return the record; None if there is none, or if another release wrote it and it cannot be read.

        Raises:
            ConfigurationError: somebody else may have written it. It names processes to end and servers to send
                passwords to, so it is not heeded.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(
                f"the run file {self.path} cannot be read ({error.strerror}). Run the command as the user who started "
                "the stack, or set INFERLANE_STATE_DIR to a folder of your own."
            ) from error
        try:
            self._refuse_foreign(os.fstat(descriptor))
            file = os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
        with file:
            try:
                return msgspec.json.decode(file.read(), type=RunRecord)
            except UNDECODABLE:
                return None

    def _refuse_foreign(self, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return
        raise ConfigurationError(
            f"the run file {self.path} belongs to {_user_name(status.st_uid)}, mode {stat.filemode(status.st_mode)}; "
            f"only a plain file of {_user_name(os.getuid())} that nobody else can write is trusted. Run the command as "
            "its owner, remove the file, or set INFERLANE_STATE_DIR to a folder of your own."
        )

    def remove(self) -> None:
        """Remove the file.

        Raises:
            OSError: it cannot be removed.
        """
        self.path.unlink(missing_ok=True)


def _user_name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`; False for a name other than localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def base_url(host: str, port: int, *, tls: bool = False) -> str:
    """Return the URL at which this machine reaches a server that binds `host`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'https' if tls else 'http'}://{f'[{here}]' if ':' in here else here}:{port}"
