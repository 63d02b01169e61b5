"""Choosing a broker by its kind."""

from pathlib import Path

from tests.support.brokers.apache.cluster import ApacheCluster
from tests.support.brokers.apache.security import Security
from tests.support.brokers.containers import ContainerBroker
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.brokers.external import ExternalBroker
from tests.support.brokers.kinds import Broker, BrokerKind


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
