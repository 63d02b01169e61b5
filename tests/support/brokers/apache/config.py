"""The properties file of one node."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.brokers.apache.security import SECURE_LISTENERS, Security

_CONTROLLER = "CONTROLLER"
_PLAIN = "PLAINTEXT"

# Small, quick to start and quick to notice: what a test's broker needs and a production broker does not.
_FOR_TESTS = {
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # The defaults are sized for a heap of gigabytes.
    "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    "log.index.size.max.bytes": str(1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "broker.heartbeat.interval.ms": "1000",
    # A node that cannot register within a minute, the default, ends itself. A busy machine elects a leader more slowly.
    "initial.broker.registration.timeout.ms": "300000",
    # The defaults (2 s, 1 s, 2 s) elect a new leader at each stall of a busy machine, without end.
    "controller.quorum.fetch.timeout.ms": "8000",
    "controller.quorum.election.timeout.ms": "4000",
    "controller.quorum.request.timeout.ms": "8000",
    "controlled.shutdown.enable": "true",
}
_MAX_REPLICAS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node: where it listens and where it keeps its log."""

    number: int
    folder: Path
    plain_port: int
    controller_port: int
    secure_ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """Where clients connect without TLS or password."""
        return f"127.0.0.1:{self.plain_port}"

    @property
    def properties_path(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"


def write_properties(node: Node, nodes: Mapping[int, Node], security: Security | None) -> None:
    """Write the node's properties file."""
    values = _identity(node, nodes) | _listeners(node) | _replication(len(nodes)) | _FOR_TESTS
    if security is not None:
        values |= security.properties()
    node.folder.mkdir(parents=True, exist_ok=True)
    node.properties_path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def _identity(node: Node, nodes: Mapping[int, Node]) -> dict[str, str]:
    voters = ",".join(f"{other.number}@127.0.0.1:{other.controller_port}" for other in nodes.values())
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "controller.quorum.voters": voters,
        "controller.listener.names": _CONTROLLER,
        "inter.broker.listener.name": _PLAIN,
        "log.dirs": str(node.folder / "log"),
    }


def _listeners(node: Node) -> dict[str, str]:
    ports = {_PLAIN: node.plain_port, **node.secure_ports}
    advertised = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
    protocols = {_CONTROLLER: _PLAIN, _PLAIN: _PLAIN, **{name: name for name in SECURE_LISTENERS}}
    return {
        "listeners": ",".join([*advertised, f"{_CONTROLLER}://127.0.0.1:{node.controller_port}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
    }


def _replication(node_count: int) -> dict[str, str]:
    replicas = min(_MAX_REPLICAS, node_count)
    in_sync = max(1, replicas - 1)
    return {
        # How long a killed node is thought to live. Too short and a machine that stalls loses nodes that are well; a
        # node that is alone has nobody to take over from it.
        "broker.session.timeout.ms": "15000" if node_count == 1 else "9000",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }
