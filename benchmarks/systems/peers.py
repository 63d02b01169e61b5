"""Peers: a folder of `benchmarks/peers` each, with its requirements, its program and `peer.toml`."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from benchmarks.cases import Case
from benchmarks.systems.running import (
    APACHE_WARM_UP_S,
    ON_APACHE,
    Protocol,
    Running,
    answers_get,
    post,
    process,
    wait_ready,
)
from benchmarks.venvs import STATE, environment_of, versions_in
from control_plane.local.embedded_parts import broker_argv, store_argv
from tests.support.brokers import ApacheCluster
from tests.support.brokers.processes import ask_node, free_ports

PEERS = Path(__file__).parents[1] / "peers"
_READY_WITHIN_S = 300.0
_STORE_MIB = 512


class PeerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`peer.toml`. `{bin}`, `{port}` and `{port1}` stand for the environment's programs and two free ports.

    A peer with `topics` is given the embedded broker or an Apache Kafka, one with `needs_store` the embedded store.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    predict: str
    ready: str
    protocol: Protocol = "v1"
    environment: dict[str, str] = {}
    topics: tuple[str, ...] = ()
    needs_store: bool = False


def peer_names() -> tuple[str, ...]:
    """The folders there are."""
    return tuple(sorted(path.parent.name for path in PEERS.glob("*/peer.toml")))


def read_peer(name: str) -> PeerFile:
    """`peer.toml` of the peer.

    Raises:
        FileNotFoundError: no such peer.
    """
    return msgspec.toml.decode((PEERS / name / "peer.toml").read_bytes(), type=PeerFile)


@contextmanager
def serve_peer(name: str, case: Case) -> Iterator[Running]:
    """The peer, serving the model of the case; a name that ends with `ON_APACHE` gives it an Apache Kafka."""
    is_on_apache, base = name.endswith(ON_APACHE), name.removesuffix(ON_APACHE)
    peer, folder = read_peer(base), PEERS / base
    programs = environment_of(folder)
    port, port1, redis = free_ports(3)
    places = {"bin": str(programs), "port": str(port), "port1": str(port1)}
    environment = {
        **os.environ,
        "BENCH_MODEL": str(case.onnx),
        "BENCH_PORT": str(port),
        # The embedded broker does not wake a waiting fetch.
        "BENCH_FETCH_WAIT_MS": "500" if is_on_apache else "2",
        "BENCH_REDIS": f"redis://127.0.0.1:{redis}/0",
        **{key: value.format(**places) for key, value in peer.environment.items()},
    }
    log = STATE / "logs" / f"{name}.log"
    log.unlink(missing_ok=True)
    with ExitStack() as stack:
        parts: list[int] = []
        if peer.topics:
            kafka, pids = stack.enter_context(_apache() if is_on_apache else _embedded(log))
            parts += pids
            environment["BENCH_KAFKA"] = kafka
            wait_ready(lambda: _has_topics(kafka, peer.topics), within_s=60, what="the broker", logs=[log])
        if peer.needs_store:
            argv = store_argv(redis, maxmemory_mib=_STORE_MIB)
            parts.append(stack.enter_context(process(argv, log=log)).pid)
        own = [
            stack.enter_context(
                process([part.format(**places) for part in command], log=log, cwd=folder, env=environment)
            )
            for command in peer.commands
        ]
        address = f"http://127.0.0.1:{port}"
        wait = partial(wait_ready, within_s=_READY_WITHIN_S, logs=[log], processes=own)
        wait(lambda: answers_get(address + peer.ready), what=name)
        running = Running(
            name=name,
            title=peer.title + (", on Apache Kafka" if is_on_apache else ""),
            url=address + peer.predict,
            protocol=peer.protocol,
            own_pids=tuple(each.pid for each in own),
            parts_pids=tuple(parts),
            versions=tuple(versions_in(programs)),
            warm_up_s=APACHE_WARM_UP_S if is_on_apache else 0,
        )
        wait(lambda: _predicts(running, case), what=f"{name}'s worker")
        yield running


@contextmanager
def _apache() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The address of an Apache Kafka, and its processes."""
    with tempfile.TemporaryDirectory() as folder, ApacheCluster(Path(folder)) as cluster:
        yield cluster.bootstrap_servers, cluster.pids


@contextmanager
def _embedded(log: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The same of the embedded broker."""
    (port,) = free_ports(1)
    with process(broker_argv(port), log=log) as broker:
        yield f"127.0.0.1:{port}", (broker.pid,)


def _predicts(running: Running, case: Case) -> bool:
    try:
        post(running.url, running.body(case.rows[0]))
    except OSError:
        return False
    return True


def _has_topics(server: str, topics: tuple[str, ...]) -> bool:
    return bool(ask_node(server).brokers) and asyncio.run(_create(server, topics))


async def _create(server: str, topics: tuple[str, ...]) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    try:
        await admin.start()
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1) for topic in topics])
    except KafkaError:
        return False
    finally:
        await admin.close()
    return True
