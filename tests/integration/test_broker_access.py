"""Getting in to Apache Kafka with TLS, a client certificate or a password: every client of ours, and nobody else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from control_plane.local.embedded_parts import broker_answers
from control_plane.local.hop_progress import committed_and_end
from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.traffic_split import Split
from inferlane.errors import UnavailableError
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.window_store import WindowStore
from inferlane.runtime.split_table import SplitFollower, SplitTable, publish_split
from tests.support.brokers import ApacheCluster, Broker
from tests.support.brokers.apache.security import Security
from tests.support.parts import embedded_store, eventually
from tests.support.running_router import running_router

NAMES = Names()

pytestmark = pytest.mark.timeout(400)

TOPIC = NAMES.work_topic("iris", "v1", Lane.REQUESTS)
WAIT_S = 120.0
WAYS_IN = [
    ("SSL", None),
    ("SASL_SSL", "SCRAM-SHA-512"),
    ("SASL_SSL", "SCRAM-SHA-256"),
    ("SASL_PLAINTEXT", "PLAIN"),
]


@pytest.fixture
def cluster(broker: Broker) -> ApacheCluster:
    if not isinstance(broker, ApacheCluster):
        pytest.skip(f"the {broker.kind} broker has no such listeners; run with --broker apache")
    return broker


def secure(cluster: ApacheCluster, protocol: str, mechanism: str | None, **more: object) -> Settings:
    """The settings of a client that is let in."""
    security = cluster.security
    assert security is not None
    chosen: dict[str, Any] = {
        "kafka_bootstrap_servers": cluster.secure_servers(protocol),
        "kafka_security_protocol": protocol,
        "ingress_partitions": 1,
        "work_partitions": 1,
    }
    if protocol.endswith("SSL"):
        chosen["kafka_ssl_cafile"] = security.ca_path
    if protocol == "SSL":
        chosen["kafka_ssl_certfile"] = security.client_path
    if mechanism is not None:
        chosen |= {
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_username": security.username,
            "kafka_sasl_password": security.password,
        }
    return cluster.settings(**chosen | more)


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS_IN)
async def test_every_client_of_ours_gets_in(cluster: ApacheCluster, protocol: str, mechanism: str | None) -> None:
    settings = secure(cluster, protocol, mechanism)
    assert await broker_answers(settings.kafka)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    producer = BatchProducer(settings.kafka)
    consumer = LaneConsumer(settings.kafka, topic=TOPIC, group="inferlane.access")
    follower = SplitFollower(settings.kafka, settings.stack.names, table := SplitTable())
    try:
        await producer.start()
        await producer.send([OutRecord(TOPIC, b"", b"let in", [])])
        await consumer.start()
        async with asyncio.timeout(WAIT_S):
            while (take := await consumer.fetch(max_records=1, timeout_s=1)) is None:
                pass
        assert take.records[0].value == b"let in"
        consumer.finish(take)
        await publish_split(settings.kafka, settings.stack.names, Split(model="iris", weights={"v1": 1.0}))
        await follower.start()
        assert table.get("iris") is not None
    finally:
        await follower.close()
        await consumer.close()
        await producer.close()
    assert await committed_and_end(settings.kafka, TOPIC, "inferlane.access") == (1, 1)


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS_IN[:2])
async def test_the_routers_faust_app_gets_in(cluster: ApacheCluster, protocol: str, mechanism: str | None) -> None:
    async with embedded_store() as redis_url:
        settings = secure(cluster, protocol, mechanism, redis_url=redis_url, drain_deadline_s=5.0)
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        async with connect(redis_url) as redis:
            store = WindowStore(redis, redis_url=redis_url, slot_s=5, keep_s=600, names=Names())
            async with running_router(settings, producer, store) as (app, _):

                async def is_ready() -> bool:
                    return all(app.ready().values())

                await eventually(is_ready)
        await producer.close()


async def test_a_client_stops_though_the_broker_holds_its_fetch(cluster: ApacheCluster) -> None:
    """With TLS a close waits for the broker's, which reads nothing before it has answered the fetch: 30 s a client."""
    settings = secure(cluster, "SASL_SSL", "SCRAM-SHA-512", kafka_request_timeout_ms=240_000)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    consumer = make_consumer(settings.kafka, group=None, fetch_max_wait_ms=120_000)
    await consumer.start()
    consumer.assign([TopicPartition(TOPIC, 0)])
    await consumer.seek_to_end()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consumer.getone(), timeout=1)
    async with asyncio.timeout(20):
        await consumer.stop()


async def test_strangers_are_refused_and_no_message_says_the_password(cluster: ApacheCluster, tmp_path: Path) -> None:
    other = Security.make(tmp_path / "other")
    strangers = [
        secure(cluster, "SASL_SSL", "SCRAM-SHA-512", kafka_sasl_password="wr0ng"),  # noqa: S106 - which is the point
        secure(cluster, "SASL_SSL", "SCRAM-SHA-512", kafka_ssl_cafile=other.ca_path),
        secure(cluster, "SSL", None, kafka_ssl_certfile=other.client_path),
        secure(cluster, "SSL", None, kafka_ssl_certfile=None),
    ]
    for settings in strangers:
        with pytest.raises(UnavailableError) as caught:
            await broker_answers(settings.kafka)
        assert "wr0ng" not in str(caught.value)
