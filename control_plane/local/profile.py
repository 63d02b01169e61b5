"""The settings of the local stack: defaults for one machine, overridden by the user's."""

import errno
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from control_plane.autoscaling.desired_replicas import HPA_SYNC_S
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.listen_address import ListenAddress
from inferlane.runtime.kafka.arrivals import can_hold_signals

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings


DASHBOARD = "dashboard"
"""The pool of the live page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleOptions:
    """The file of ScaledObjects, the maximum of workers per pool here, and the HPA's sync period."""

    scaled_objects: "Path"
    max_workers: int
    hpa_sync_s: float = HPA_SYNC_S


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """The flags of `inferlane up`."""

    workers: int = 1
    api_port: int = 8000
    # 0 is no gRPC.
    grpc_port: int = 0
    broker_port: int = 9092
    store_port: int = 6379
    first_ops_port: int = 8100
    store_maxmemory_mib: int = 512
    # 0 is no dashboard.
    dashboard_port: int = 3000
    # Versions whose files take no more share one process; 0: none does.
    shared_worker_max_model_bytes: int = 0
    # None: every pool keeps its size.
    autoscale: AutoscaleOptions | None = None
    # Whether services are forked from a process that has loaded their modules, where the system allows it.
    forks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The settings of every process of the stack, and the environment that gives them to it."""

    settings: "Settings"
    environment: Mapping[str, str]
    has_broker: bool
    has_store: bool


def stack_profile(chosen: "Settings", options: StackOptions) -> Profile:
    """Complete the user's settings with defaults for one machine.

    A broker or store that the user named is used; the embedded one is started only where none was named.
    """
    named = chosen.chosen()
    has_broker = "kafka_bootstrap_servers" not in named
    has_store = "redis_url" not in named
    values: dict[str, object] = {
        "api_port": options.api_port,
        "grpc_port": options.grpc_port,
        "dashboard_port": options.dashboard_port,
    }
    if has_broker or (options.workers == 1 and options.autoscale is None):
        # Between several workers long runs would go to one of them; for one, short ones only cost CPU. The embedded
        # broker spends more on them than several workers gain.
        values["sticky_records"] = 64
    if has_broker:
        values |= {
            "kafka_bootstrap_servers": f"127.0.0.1:{options.broker_port}",
            # Tansu does not wake a waiting fetch, and has no InitProducerId.
            "fetch_max_wait_ms": 2,
            "kafka_wakes_fetches": False,
            "kafka_idempotence": False,
            # It keeps every record in memory.
            "kafka_compression_type": "zstd",
            # The first member of a group waits for half of it, rounded up to seconds.
            "session_timeout_ms": 6_000,
            # It walks through all batches of a partition for each fetch that finds a record, and spends CPU on each
            # partition that it is asked for: few batches, in some partitions.
            "ingress_partitions": 4,
            "work_partitions": 4,
        }
    if can_hold_signals(arrivals := chosen.stack.state_dir.absolute() / "arrivals"):
        values["arrivals_dir"] = arrivals
    if has_store:
        values["redis_url"] = f"redis://127.0.0.1:{options.store_port}/0"
    # Who gives the secret wants callbacks.
    if chosen.webhooks.secret is not None:
        values["webhooks"] = True
    settings = load_settings(**(values | named))
    return Profile(
        settings=settings,
        environment=_placed(settings).environment(),
        has_broker=has_broker,
        has_store=has_store,
    )


def _placed(settings: "Settings") -> "Settings":
    """Return the settings with absolute paths: who reads them from the run file may be in another folder."""
    chosen = settings.chosen()
    paths = {name: value.absolute() for name, value in chosen.items() if isinstance(value, Path)}
    return settings.changed(**{"models_dir": settings.stack.models_dir.absolute(), **paths})


def attached_settings(chosen: "Settings", environment: Mapping[str, str]) -> "Settings":
    """Complete the user's settings with those of a running stack, to reach its parts from outside."""
    values = {name.removeprefix("INFERLANE_").lower(): value for name, value in environment.items()}
    if chosen.chosen().get("kafka_bootstrap_servers") not in (None, values.get("kafka_bootstrap_servers")):
        # What is written to another broker must not be handed to the consumers of this stack.
        values.pop("arrivals_dir", None)
    return load_settings(**(values | chosen.chosen()))


_LAST_PORT = 65_535
_COMMAND_CHARACTERS = 80
# A client of gRPC brings the first alone.
_GRPC_EXTRA = ("grpc", "grpc_health", "grpc_reflection")


def grpc_port_beside(api_port: int, others: Collection[int]) -> int:
    """Return the port that the API serves gRPC on where nobody chose one; 0 if it cannot serve it there."""
    port = api_port + 1
    is_served = all(map(find_spec, _GRPC_EXTRA)) and port <= _LAST_PORT and port not in others and is_free(port)
    return port if is_served else 0


def check_host(variable: str, host: str) -> None:
    """Return if a server can listen at this address; `variable` is the setting that names it.

    Raises:
        ConfigurationError: it is no address of this machine.
    """
    fault = OSError(errno.EINVAL, "it is empty") if not host else _bind_fault(0, host=host)
    if fault is not None:
        raise ConfigurationError(
            f"{variable}={host!r} is no address of this machine: {fault.strerror or fault}. Name one without a port: "
            "127.0.0.1 for this machine alone, 0.0.0.0 for every IPv4 network of it, :: for those of IPv6 too"
        )


def claim_port(port: int, *, host: str = "127.0.0.1", remedy: str) -> int:
    """Return `port` if it can be bound now.

    Raises:
        ConfigurationError: somebody listens there, or this user may not; the message ends with `remedy`.
    """
    fault = _bind_fault(port, host=host)
    if fault is None:
        return port
    if fault.errno != errno.EADDRINUSE:
        raise ConfigurationError(
            f"this user cannot listen on port {port} on {host}: {fault.strerror}. To mend it, {remedy}."
        )
    raise ConfigurationError(f"port {port} on {host} is in use by {holder_of(port)}. Stop it, or {remedy}.")


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen on the port now."""
    return _bind_fault(port, host=host) is None


def _bind_fault(port: int, *, host: str) -> OSError | None:
    try:
        address = ListenAddress.of(host)
        with socket.socket(address.family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose last connections are still in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.is_dual_stack)
            probe.bind((address.host, port))
    except OSError as error:
        return error
    return None


def holder_of(port: int) -> str:
    """Describe the process that listens on the port, as far as this user can see it."""
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        if listening:
            # A process that was forked shows its title with the rest of the old one as blanks.
            command = " ".join(psutil.Process(listening[0]).cmdline()).strip()
            return f"pid {listening[0]} ({command[:_COMMAND_CHARACTERS]})"
    except (psutil.Error, OSError):
        pass  # A process that ended meanwhile, or a system that shows sockets to root only.
    return "a process that this user may not see"


class OpsPorts:
    """Assign an ops port per process name, from `first` upwards; a name keeps its port across restarts."""

    def __init__(self, first: int, *, host: str = "127.0.0.1", free: Callable[..., bool] = is_free) -> None:
        self._first = first
        self._host = host
        self._free = free
        self._port_of: dict[str, int] = {}

    def port_of(self, name: str) -> int:
        """Return the port of the process called `name`, chosen when it is first asked for.

        Raises:
            ConfigurationError: no port from `first` upwards is free.
        """
        if name not in self._port_of:
            taken = set(self._port_of.values())
            for port in range(self._first, _LAST_PORT + 1):
                if port not in taken and self._free(port, host=self._host):
                    self._port_of[name] = port
                    break
            else:
                raise ConfigurationError(f"no port from {self._first} upwards is free for {name}. Lower --ops-port.")
        return self._port_of[name]
