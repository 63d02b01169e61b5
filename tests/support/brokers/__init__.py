"""A Kafka for a test, by choice: embedded, Apache, in a container, or one that runs elsewhere.

`--broker embedded|apache|testcontainers|external` (or `INFERLANE_TEST_BROKER`) chooses; the fixture `broker` of
`tests/conftest.py` gives it, without topics of an earlier test. A test that breaks brokers opens a cluster of its own:

    with ApacheCluster(folder, nodes=3) as cluster:
        settings = cluster.settings(redis_url=url)
        cluster.kill(2)   # SIGKILL
        cluster.start(2)  # returns when it serves again
        cluster.wait_in_sync()
"""

from tests.support.brokers.apache.cluster import ApacheCluster
from tests.support.brokers.kinds import Broker, BrokerKind
from tests.support.brokers.opening import make_broker

__all__ = ["ApacheCluster", "Broker", "BrokerKind", "make_broker"]
