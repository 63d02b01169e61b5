"""The ports of a stack that is started from outside, and the environment that gives them to `inferlane up`."""

import os
from dataclasses import dataclass

from control_plane.local.profile import is_free
from tests.support.brokers.processes import free_ports, reserve

# Below the ports that the system gives to clients (from 32768 on Linux): of many in a row there, one is soon taken.
_OPS_PORTS = range(20_000, 30_000)
# More than the processes of any stack that is started.
_OPS_PORTS_A_STACK = 50


@dataclass(frozen=True, kw_only=True)
class StackPorts:
    """Ports of 127.0.0.1; the ops ports are 50 in a row, from the first on."""

    api: int
    grpc: int
    broker: int
    store: int
    dashboard: int
    first_ops: int

    def environment(self, **more: str) -> dict[str, str]:
        """That of this process, without settings of a stack of its user's, with the ports and with `more`."""
        return {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")} | {
            "INFERLANE_API_PORT": str(self.api),
            "INFERLANE_GRPC_PORT": str(self.grpc),
            "INFERLANE_BROKER_PORT": str(self.broker),
            "INFERLANE_STORE_PORT": str(self.store),
            "INFERLANE_DASHBOARD_PORT": str(self.dashboard),
            "INFERLANE_FIRST_OPS_PORT": str(self.first_ops),
            **more,
        }


def free_stack_ports() -> StackPorts:
    """Ports that nobody listens on now, and that nobody else is given while this process lives."""
    api, grpc, broker, store, dashboard = free_ports(5)
    step = _OPS_PORTS_A_STACK
    first_ops = next(
        first
        for first in _OPS_PORTS[::step]
        if all(is_free(first + number) for number in range(step)) and reserve(first)
    )
    return StackPorts(api=api, grpc=grpc, broker=broker, store=store, dashboard=dashboard, first_ops=first_ops)
