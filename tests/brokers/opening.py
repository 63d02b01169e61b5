"""Choosing a broker by its kind."""

from pathlib import Path

from tests.brokers.apache.cluster import ApacheCluster
from tests.brokers.apache.security import Security
from tests.brokers.containers import ContainerBroker
from tests.brokers.embedded import EmbeddedBroker
from tests.brokers.external import ExternalBroker
from tests.brokers.kinds import Broker, BrokerKind


def make_broker(kind: BrokerKind, folder: Path) -> Broker:
    """A broker of this kind, not opened yet; what it writes goes to `folder`."""
    match kind:
        case BrokerKind.EMBEDDED:
            return EmbeddedBroker()
        case BrokerKind.APACHE:
            return ApacheCluster(folder, security=Security.make(folder / "security"))
        case BrokerKind.TESTCONTAINERS:
            return ContainerBroker()
        case BrokerKind.EXTERNAL:
            return ExternalBroker()
