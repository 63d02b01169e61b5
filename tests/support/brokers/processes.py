"""Starting, asking and ending the processes of brokers."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

if TYPE_CHECKING:
    import subprocess

T = TypeVar("T")

_HOST = "127.0.0.1"
_POLL_S = 0.3
_REQUEST_TIMEOUT_MS = 5_000


# UDP sockets, which none of our servers has: a port is reserved from the moment it is given away, also while nobody
# listens there yet, and until this process ends, however it does.
_reserved: list[socket.socket] = []


def reserve(port: int) -> bool:
    """Keep the port of 127.0.0.1 from everybody else who asks here, in any process; False if somebody has it."""
    reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        reservation.bind((_HOST, port))
    except OSError:
        reservation.close()
        return False
    _reserved.append(reservation)
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody listens on now, and that nobody else is given while this process lives."""
    ports: list[int] = []
    with ExitStack() as probes:
        while len(ports) < count:
            # It stays open until all are found, or the system could give the same one again.
            probe = probes.enter_context(socket.create_server((_HOST, 0)))
            port = int(probe.getsockname()[1])
            if reserve(port):
                ports.append(port)
    return tuple(ports)


def end(process: "subprocess.Popen[bytes] | None") -> None:
    """SIGKILL, and wait until it is gone."""
    if process is not None:
        process.kill()
        process.wait()


def wait_until(is_so: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Return when it is so; fail when it is not within the time."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as one node sees it, which may be behind what another sees."""

    brokers: frozenset[int] = frozenset()
    replicas_missing: int | None = None


def ask_node(server: str) -> Seen:
    """What this node knows; nothing when it does not answer."""
    if not _accepts(server):
        return Seen()
    with suppress(KafkaError, OSError, TimeoutError):
        return run_coroutine(_ask_node(server))
    return Seen()


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in a loop of its own, whether or not one runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _ask_node(server: str) -> Seen:
    host, _, port = server.rpartition(":")
    connection = await create_conn(host, int(port), request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        cluster = ClusterMetadata()
        cluster.update_metadata(await connection.send(MetadataRequest(None)))
    finally:
        connection.close()
    partitions = [partition for topic in cluster._partitions.values() for partition in topic.values()]
    return Seen(
        brokers=frozenset(broker.nodeId for broker in cluster.brokers()),
        replicas_missing=sum(len(partition.replicas) - len(partition.isr) for partition in partitions),
    )


def _accepts(server: str) -> bool:
    host, _, port = server.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False
