"""The embedded broker: Tansu, in memory."""

import signal
import subprocess
from typing import Any, ClassVar

from control_plane.local.embedded_parts import broker_argv
from tests.support.brokers.kinds import Broker, BrokerKind
from tests.support.brokers.processes import ask_node, end, free_ports, wait_until

_READY_WITHIN_S = 60.0


class EmbeddedBroker(Broker):
    """A Tansu; it forgets everything when it stops."""

    kind: ClassVar[BrokerKind] = BrokerKind.EMBEDDED
    is_embedded: ClassVar[bool] = True

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process; it must be open."""
        assert self._process is not None
        return self._process.pid

    def open(self) -> None:
        self._process = subprocess.Popen(broker_argv(self._port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(
            lambda: bool(ask_node(self.bootstrap_servers).brokers),
            within_s=_READY_WITHIN_S,
            what=f"the embedded broker at {self.bootstrap_servers} answers",
        )

    def close(self) -> None:
        end(self._process)

    def pause(self) -> None:
        """SIGSTOP: it neither answers nor closes its connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("the embedded broker was not started")
        self._process.send_signal(number)

    def overrides(self, **more: object) -> dict[str, Any]:
        """Tansu has no InitProducerId, and does not wake a waiting fetch.

        It is asked less often than `inferlane up` does: lanes that find nothing would take the CPU of those that do.
        """
        embedded = {
            "kafka_idempotence": False,
            "kafka_wakes_fetches": False,
            "fetch_max_wait_ms": 20,
            "idle_fetch_max_wait_ms": 100,
        }
        return super().overrides(**embedded | more)
