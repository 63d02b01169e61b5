"""aiokafka clients with the settings that our promise needs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, kafka_errors

from inferlane.errors import InferlaneError, NotServedError, UnavailableError
from inferlane.runtime.broker_access import client_arguments
from inferlane.runtime.kafka.fetching import guard_fetches
from inferlane.runtime.mending import UNKNOWN_TO_CLIENT, Mend, mend_of
from inferlane.runtime.topics import batch_limit_bytes, make_admin, record_limit_bytes

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from inferlane.runtime.config import Settings

# Fetches are bounded so that a backlog of large records does not fill the memory of a worker.
_FETCH_MAX_BYTES = 32 * 1024 * 1024
_MAX_BATCH_BYTES = 1024 * 1024
# How long one batch may take before the group gives up on us.
_MAX_POLL_INTERVAL_MS = 600_000
_HEARTBEATS_A_SESSION = 10
# So late producers and consumers see partitions that were added, or a topic that was made anew. Each look costs the
# broker a small call a client.
METADATA_MAX_AGE_MS = 5_000


def make_producer(settings: "Settings") -> AIOKafkaProducer:
    """A producer whose acknowledgement means that every in-sync replica has the record."""
    kafka_errors.update({kind.errno: kind for kind in UNKNOWN_TO_CLIENT})
    return AIOKafkaProducer(
        **client_arguments(settings),
        acks="all",
        enable_idempotence=settings.kafka_idempotence,
        max_request_size=record_limit_bytes(settings),
        # A partition takes one batch a round trip; with no linger a large limit costs no latency.
        max_batch_size=_MAX_BATCH_BYTES,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        request_timeout_ms=settings.kafka_request_timeout_ms,
    )


def make_consumer(
    settings: "Settings", *topics: str, group: str | None, fetch_max_wait_ms: int | None = None
) -> AIOKafkaConsumer:
    """A consumer that never commits by itself and starts a new group at the oldest record."""
    guard_fetches(batch_limit_bytes=batch_limit_bytes(settings))
    return AIOKafkaConsumer(
        *topics,
        **client_arguments(settings),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # What a producer took back, or has not decided on yet, is no request.
        isolation_level="read_committed",
        fetch_max_wait_ms=fetch_max_wait_ms or settings.fetch_max_wait_ms,
        fetch_max_bytes=_FETCH_MAX_BYTES,
        max_partition_fetch_bytes=record_limit_bytes(settings),
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.session_timeout_ms // _HEARTBEATS_A_SESSION,
        max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        rebalance_timeout_ms=max(settings.session_timeout_ms, int(settings.drain_deadline_s * 1000)),
        request_timeout_ms=max(settings.kafka_request_timeout_ms, settings.session_timeout_ms + 5_000),
    )


async def partitions_by_topic(admin: "AIOKafkaAdminClient") -> Mapping[str, list[TopicPartition]]:
    """The partitions, by number, of every topic that the broker has now.

    A consumer knows only those of the topics that it reads (the embedded broker tells it all, Apache Kafka does not),
    and asking for a topic by its name creates it where the broker is set to.
    """
    return {
        topic["topic"]: sorted(TopicPartition(topic["topic"], part["partition"]) for part in topic["partitions"])
        for topic in await admin.describe_topics()
    }


async def partitions_of(settings: "Settings", topic: str) -> list[TopicPartition]:
    """The partitions of a topic. Rare, so it opens a connection of its own.

    Raises:
        UnavailableError: the broker does not answer, or has no such topic.
    """
    admin = make_admin(settings)
    with broker_errors(settings.kafka_bootstrap_servers):
        try:
            await admin.start()
            partitions = (await partitions_by_topic(admin)).get(topic)
        finally:
            await admin.close()
    if not partitions:
        raise UnavailableError(f"the broker has no topic {topic}. Create it with `inferlane topics create`.")
    return partitions


# What the client library raises for a call to the broker that failed.
BROKER_ERRORS = (KafkaError, OSError, TimeoutError)


@contextmanager
def broker_errors(bootstrap_servers: str) -> Iterator[None]:
    """Turn the client's errors into ours.

    Raises:
        UnavailableError: the broker does not answer or refused the call for now.
        NotServedError: the broker denies the call or does not know it: no retry mends that.
    """
    try:
        yield
    except BROKER_ERRORS as error:
        raise broker_failure(error, bootstrap_servers) from error


def broker_failure(error: BaseException, bootstrap_servers: str) -> InferlaneError:
    """The error of ours for one of the client's."""
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if mend_of(error) is Mend.STOP:
        return NotServedError(
            f"the broker at {bootstrap_servers} does not serve us: {what}. Check INFERLANE_KAFKA_SECURITY_PROTOCOL, "
            "the credentials, the rights of their user and the broker's version; docs/connections.md lists them."
        )
    return UnavailableError(f"the broker at {bootstrap_servers} did not take the call: {what}")
