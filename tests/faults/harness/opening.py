"""The broker of a fault run: on Apache Kafka a cluster whose nodes may fail."""

from pathlib import Path

from tests.support.brokers import ApacheCluster, Broker, BrokerKind, make_broker


def fault_broker(kind: BrokerKind, folder: Path, *, nodes: int) -> Broker:
    """A broker of this kind, not opened yet; `nodes` is for Apache Kafka."""
    return ApacheCluster(folder, nodes=nodes) if kind is BrokerKind.APACHE else make_broker(kind, folder)
