"""Nodes of Apache Kafka that a test starts, stops, kills and freezes."""

import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.support.brokers.apache.config import Node, write_properties
from tests.support.brokers.apache.jars import jars_dir, java
from tests.support.brokers.apache.security import SECURE_LISTENERS, Security
from tests.support.brokers.kinds import Broker, BrokerKind
from tests.support.brokers.processes import ask_node, end, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

# Patient: machines that do much else start three JVMs in minutes.
_READY_WITHIN_S = 300.0
_STOP_WITHIN_S = 60.0
_IN_SYNC_WITHIN_S = 300.0
_FORMAT_WITHIN_S = 180.0
_HEAP_MIB_ALONE = 512
_HEAP_MIB_IN_A_CLUSTER = 256


class ApacheCluster(Broker):
    """One or more combined broker-and-controller nodes, numbered from 1. Every topic of three nodes or more has
    three replicas, of which two must have a record before it is acknowledged.

    `security` adds listeners with TLS, a password or both, on the ports that `secure_servers` names.
    """

    kind: ClassVar[BrokerKind] = BrokerKind.APACHE

    def __init__(self, folder: Path, *, nodes: int = 1, security: Security | None = None) -> None:
        self._folder = folder
        self.security = security
        self._heap_mib = _HEAP_MIB_ALONE if nodes == 1 else _HEAP_MIB_IN_A_CLUSTER
        self._nodes = {number: _make_node(number, folder, has_secure=bool(security)) for number in range(1, nodes + 1)}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def nodes(self) -> tuple[int, ...]:
        """The numbers of the nodes, running or not."""
        return tuple(self._nodes)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.server for node in self._nodes.values())

    def secure_servers(self, listener: str) -> str:
        """Where clients connect with `SSL`, `SASL_SSL` or `SASL_PLAINTEXT`."""
        return ",".join(f"127.0.0.1:{node.secure_ports[listener]}" for node in self._nodes.values())

    def overrides(self, **more: object) -> dict[str, Any]:
        return super().overrides(**{"replication_factor": min(3, len(self._nodes)), **more})

    def open(self) -> None:
        """Format and start every node; returns when all of them serve."""
        for node in self._nodes.values():
            write_properties(node, self._nodes, self.security)
        self._format()
        for node in self._nodes.values():
            self._launch(node)
        for number in self._nodes:
            self._wait_until_serving(number)

    def close(self) -> None:
        """SIGKILL every node that runs. What they logged stays in the folder."""
        for process in self._processes.values():
            end(process)
        self._processes.clear()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the nodes that were started and not killed."""
        return tuple(process.pid for process in self._processes.values())

    def is_running(self, node: int) -> bool:
        """Whether the node's process lives (which a paused one does)."""
        process = self._processes.get(node)
        return process is not None and process.poll() is None

    def kill(self, node: int) -> None:
        """SIGKILL the node; returns when its process is gone. The others notice within about 9 s."""
        end(self._processes.pop(node))

    def stop(self, node: int) -> None:
        """Shut the node down in good order (it hands its partitions over first), or kill it after a minute."""
        process = self._processes.pop(node)
        process.terminate()
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            end(process)

    def start(self, node: int) -> None:
        """Start a node that was killed or stopped, with the log that it had; returns when it serves.

        Its replicas may still be behind: `wait_in_sync` waits for them.
        """
        self._launch(self._nodes[node])
        self._wait_until_serving(node)

    def pause(self, node: int) -> None:
        """SIGSTOP: it neither answers nor closes its connections."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """SIGCONT after `pause`."""
        self._processes[node].send_signal(signal.SIGCONT)

    def wait_in_sync(self, *, within_s: float = _IN_SYNC_WITHIN_S) -> None:
        """Return when every node sees every replica in sync: from then on, any one node may fail.

        All nodes must run.
        """

        def are_in_sync() -> bool:
            return all(ask_node(node.server).replicas_missing == 0 for node in self._nodes.values())

        wait_until(are_in_sync, within_s=within_s, what="all replicas in sync")

    def _format(self) -> None:
        """Give each node's log its identity, all at once."""
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        scram = self.security.scram_users() if self.security else ()
        formatters = [
            subprocess.Popen(
                _java(
                    "kafka.tools.StorageTool",
                    # With `=`: an id may begin with a dash.
                    *("format", f"--cluster-id={cluster_id}", "--config", str(node.properties_path)),
                    *(part for user in scram for part in ("--add-scram", user)),
                    heap_mib=64,
                ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for node in self._nodes.values()
        ]
        for formatter in formatters:
            output, _ = formatter.communicate(timeout=_FORMAT_WITHIN_S)
            if formatter.returncode:
                raise RuntimeError(f"kafka.tools.StorageTool failed: {output.decode(errors='replace')[-2000:]}")

    def _launch(self, node: Node) -> None:
        with node.log_path.open("ab") as log:
            self._processes[node.number] = subprocess.Popen(
                _java("kafka.Kafka", str(node.properties_path), heap_mib=self._heap_mib),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=node.folder,
            )

    def _wait_until_serving(self, number: int) -> None:
        node, process = self._nodes[number], self._processes[number]

        def serves() -> bool:
            if process.poll() is not None:
                tail = node.log_path.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"node {number} ended with {process.returncode}: {tail}")
            return number in ask_node(node.server).brokers

        wait_until(serves, within_s=_READY_WITHIN_S, what=f"node {number} serves at {node.server}")


def _make_node(number: int, folder: Path, *, has_secure: bool) -> Node:
    listeners: Sequence[str] = SECURE_LISTENERS if has_secure else ()
    plain, controller, *secure = free_ports(2 + len(listeners))
    return Node(
        number=number,
        folder=folder / f"node-{number}",
        plain_port=plain,
        controller_port=controller,
        secure_ports=dict(zip(listeners, secure, strict=True)),
    )


def _java(main_class: str, *arguments: str, heap_mib: int) -> tuple[str, ...]:
    """A JVM that starts fast and stays small: what a long-lived one gains from its full compiler is lost here."""
    return (
        java(),
        *("-Xms64m", f"-Xmx{heap_mib}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
        f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
        "-Djava.awt.headless=true",
        *("-cp", f"{jars_dir()}/*"),
        main_class,
        *arguments,
    )
