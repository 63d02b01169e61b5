"""Starting, asking and ending the processes of brokers."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

T = TypeVar("T")

_POLL_S = 0.1
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


def brokers_seen(bootstrap_servers: str) -> frozenset[int]:
    """The ids of the brokers that the metadata name; none when nobody answers."""
    if not any(_accepts(server) for server in bootstrap_servers.split(",")):
        return frozenset()
    with suppress(KafkaError, OSError, TimeoutError):
        return _in_own_loop(_brokers_seen(bootstrap_servers))
    return frozenset()


def replicas_missing(bootstrap_servers: str) -> int | None:
    """How many replicas of all partitions are not in sync; None when the brokers do not say."""
    with suppress(KafkaError, OSError, TimeoutError):
        return _in_own_loop(_replicas_missing(bootstrap_servers))
    return None


def _in_own_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _brokers_seen(bootstrap_servers: str) -> frozenset[int]:
    client = AIOKafkaClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await client.bootstrap()
        return frozenset(broker.nodeId for broker in client.cluster.brokers())
    finally:
        await client.close()


async def _replicas_missing(bootstrap_servers: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        topics = await admin.describe_topics()
    finally:
        await admin.close()
    partitions = [partition for topic in topics for partition in topic["partitions"]]
    return sum(len(partition["replicas"]) - len(partition["isr"]) for partition in partitions)


def _accepts(server: str) -> bool:
    host, _, port = server.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False
