"""Starting, asking and ending the processes of brokers."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

if TYPE_CHECKING:
    import subprocess

T = TypeVar("T")

_POLL_S = 0.3
_REQUEST_TIMEOUT_MS = 5_000


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(int(probe.getsockname()[1]) for probe in probes)
    for probe in probes:
        probe.close()
    return ports


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
