"""A broker that runs already: `INFERLANE_KAFKA_BOOTSTRAP_SERVERS` says where, the other settings how to get in."""

import os
from typing import Any, ClassVar

from tests.support.brokers.kinds import Broker, BrokerKind

_VARIABLE = "INFERLANE_KAFKA_BOOTSTRAP_SERVERS"


class ExternalBroker(Broker):
    """Somebody else's Kafka. Tests delete the topics there whose names begin with `inferlane.`."""

    kind: ClassVar[BrokerKind] = BrokerKind.EXTERNAL

    @property
    def bootstrap_servers(self) -> str:
        return os.environ[_VARIABLE]

    def open(self) -> None:
        """Check that it is named; whoever named it started it."""
        if not os.environ.get(_VARIABLE):
            raise RuntimeError(f"--broker external needs {_VARIABLE} to say where it is")

    def close(self) -> None:
        """Leave it running."""

    def overrides(self, **more: object) -> dict[str, Any]:
        """The environment may choose otherwise, as it does for a process of ours."""
        chosen = super().overrides()
        return {name: value for name, value in chosen.items() if f"INFERLANE_{name.upper()}" not in os.environ} | more
