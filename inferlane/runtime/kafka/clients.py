"""aiokafka clients with the settings that our delivery promise needs: addresses, TLS, passwords, limits and waits."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypedDict

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, kafka_errors

from inferlane.errors import ConfigurationError, InferlaneError, NotServedError, UnavailableError
from inferlane.runtime.error_remedies import UNKNOWN_TO_CLIENT, Remedy, remedy_of
from inferlane.runtime.kafka.broker_connection import speed_up_connections
from inferlane.runtime.kafka.direct_producer import DirectProducer
from inferlane.runtime.kafka.fetcher import guard_fetches
from inferlane.runtime.kafka.tls_close import bound_tls_close

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_ENCRYPTED = ("SSL", "SASL_SSL")


class ClientArguments(TypedDict):
    """The arguments that each client of aiokafka (producer, consumer, admin, bare client) takes."""

    bootstrap_servers: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    ssl_context: ssl.SSLContext | None
    sasl_mechanism: str
    sasl_plain_username: str | None
    sasl_plain_password: str | None


def client_arguments(kafka: "KafkaSettings") -> ClientArguments:
    """Return where to connect and how. Holds the password: never log it.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    speed_up_connections()
    password = kafka.sasl_password
    return ClientArguments(
        bootstrap_servers=kafka.bootstrap_servers,
        security_protocol=kafka.security_protocol,
        ssl_context=tls_context(kafka),
        sasl_mechanism=kafka.sasl_mechanism or "PLAIN",
        sasl_plain_username=kafka.sasl_username,
        sasl_plain_password=None if password is None else password.get_secret_value(),
    )


def tls_context(kafka: "KafkaSettings") -> ssl.SSLContext | None:
    """Return the TLS context that the settings ask for, which checks the broker's name; None without TLS.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    if kafka.security_protocol not in _ENCRYPTED:
        return None
    bound_tls_close()
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    except OSError as error:
        raise ConfigurationError(
            f"INFERLANE_KAFKA_SSL_CAFILE={str(kafka.ssl_cafile)!r} holds no certificates: {error}. "
            "Name a PEM file with the authority that signed the broker's certificate."
        ) from error
    if kafka.ssl_certfile is not None:
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"INFERLANE_KAFKA_SSL_CERTFILE={str(kafka.ssl_certfile)!r} with "
                f"INFERLANE_KAFKA_SSL_KEYFILE={str(kafka.ssl_keyfile)!r} is no certificate with its key: "
                f"{error}. Name PEM files; the key has no passphrase, and may be in the certificate's file."
            ) from error
    return context


def _no_password() -> str:
    """Refuse a key with a passphrase: OpenSSL would ask for it on the terminal, which a service must not do."""
    raise ValueError("the key has a passphrase")


# The most bytes of a fetch, so that a backlog of large records does not fill the memory of a worker.
_FETCH_MAX_BYTES = 32 * 1024 * 1024
_MAX_BATCH_BYTES = 1024 * 1024
# How long one batch may take before the group removes the consumer.
_MAX_POLL_INTERVAL_MS = 600_000
# Heartbeats in a session timeout. Too few make a busy member look dead, and a rebalance slow: a member learns of it by
# its next heartbeat. Too many cost idle CPU. Kafka recommends at least 3.
HEARTBEATS_A_SESSION = 4
# How late clients see added partitions, or a recreated topic. Each refresh costs the broker a small call for each.
METADATA_MAX_AGE_MS = 10_000
# The same where partitions are assigned by number. A leader that moved is looked up at the first error.
_ASSIGNED_METADATA_MAX_AGE_MS = 60_000
# How often a fetcher looks for work that no event announced: every answer, drained partition, seek and assignment wakes
# it. aiokafka's 200 ms turn the event loop of an idle process five times a second for each consumer.
FETCHER_POLL_MS = 2_000


def make_producer(kafka: "KafkaSettings") -> DirectProducer:
    """Return a producer whose acknowledgement means that every in-sync replica has the record."""
    kafka_errors.update({kind.errno: kind for kind in UNKNOWN_TO_CLIENT})
    return DirectProducer(
        **client_arguments(kafka),
        acks="all",
        enable_idempotence=kafka.idempotence,
        max_request_size=record_limit_bytes(kafka),
        # A partition takes one batch a round trip; without a linger a large limit costs no latency.
        max_batch_size=_MAX_BATCH_BYTES,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        request_timeout_ms=kafka.request_timeout_ms,
    )


def make_consumer(
    kafka: "KafkaSettings", *topics: str, group: str | None, fetch_max_wait_ms: int | None = None, grows: bool = True
) -> AIOKafkaConsumer:
    """Return a consumer that never commits by itself and starts a new group at the oldest record.

    `grows`: it should see soon that a topic has more partitions.
    """
    guard_fetches(batch_limit_bytes=batch_limit_bytes(kafka))
    return AIOKafkaConsumer(
        *topics,
        **client_arguments(kafka),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # Records of aborted or open transactions are not requests.
        isolation_level="read_committed",
        fetch_max_wait_ms=fetch_max_wait_ms or kafka.fetch_max_wait_ms,
        fetch_max_bytes=_FETCH_MAX_BYTES,
        max_partition_fetch_bytes=record_limit_bytes(kafka),
        session_timeout_ms=kafka.session_timeout_ms,
        heartbeat_interval_ms=kafka.session_timeout_ms // HEARTBEATS_A_SESSION,
        max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        metadata_max_age_ms=METADATA_MAX_AGE_MS if grows else _ASSIGNED_METADATA_MAX_AGE_MS,
        consumer_timeout_ms=FETCHER_POLL_MS,
        rebalance_timeout_ms=max(kafka.session_timeout_ms, int(kafka.drain_deadline_s * 1000)),
        request_timeout_ms=max(kafka.request_timeout_ms, kafka.session_timeout_ms + 5_000),
    )


# The bytes of keys, headers and the batch frame around a value of the largest size that is accepted.
_FRAME_BYTES = 64 * 1024


def record_limit_bytes(kafka: "KafkaSettings") -> int:
    """Return the size in bytes of the largest framed record, which a producer may send and a topic must accept."""
    return max(kafka.max_body_bytes, kafka.max_result_bytes) + _FRAME_BYTES


# A producer compresses several records together, each of which must be within the limit.
_BATCH_LIMITS = 4


def batch_limit_bytes(kafka: "KafkaSettings") -> int:
    """Return the most bytes of the records of one compressed batch after decompression."""
    return _BATCH_LIMITS * record_limit_bytes(kafka)


def make_admin(kafka: "KafkaSettings") -> AIOKafkaAdminClient:
    """Return a client for topics and groups; call its `start()` and `close()`."""
    return AIOKafkaAdminClient(**client_arguments(kafka), request_timeout_ms=kafka.request_timeout_ms)


async def partitions_by_topic(admin: AIOKafkaAdminClient) -> Mapping[str, list[TopicPartition]]:
    """Return the partitions, by number, of every topic that the broker has now.

    A consumer knows only the partitions of its own topics (the embedded broker lists all, Apache Kafka does not), and
    asking for a topic by name would create it if the broker creates topics automatically.
    """
    return {
        topic["topic"]: sorted(TopicPartition(topic["topic"], part["partition"]) for part in topic["partitions"])
        for topic in await admin.describe_topics()
    }


async def partitions_of(kafka: "KafkaSettings", topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic. Rare, so it opens a connection of its own.

    Raises:
        UnavailableError: the broker does not answer, or has no such topic.
    """
    admin = make_admin(kafka)
    with broker_errors(kafka.bootstrap_servers):
        try:
            await admin.start()
            partitions = (await partitions_by_topic(admin)).get(topic)
        finally:
            await admin.close()
    if not partitions:
        raise UnavailableError(f"the broker has no topic {topic}. Create it with `inferlane topics create`.")
    return partitions


def existing_only(
    consumer: AIOKafkaConsumer, topic: str, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Leave out partitions that the topic no longer has: it was deleted, and may have been recreated."""
    there = consumer.partitions_for_topic(topic) or ()
    gone = sorted(partition.partition for partition in offsets if partition.partition not in there)
    if gone:
        log.warning("partitions_gone", topic=topic, partitions=gone)
    return {partition: offset for partition, offset in offsets.items() if partition.partition not in gone}


# The errors that the client library raises for a failed call to the broker.
BROKER_ERRORS = (KafkaError, OSError, TimeoutError)


@contextmanager
def broker_errors(bootstrap_servers: str) -> Iterator[None]:
    """Turn the client's errors into ours.

    Raises:
        UnavailableError: the broker does not answer or refused the call for now.
        NotServedError: the broker denies the call or does not know it: retries do not help.
    """
    try:
        yield
    except BROKER_ERRORS as error:
        raise broker_failure(error, bootstrap_servers) from error


def broker_failure(error: BaseException, bootstrap_servers: str) -> InferlaneError:
    """Return the Inferlane error for an error of the client."""
    what = f"{type(error).__name__}: {str(error).removeprefix(f'{type(error).__name__}: ')}".removesuffix(": ")
    if remedy_of(error) is Remedy.STOP:
        return NotServedError(
            f"the broker at {bootstrap_servers} does not serve us: {what}. Check INFERLANE_KAFKA_SECURITY_PROTOCOL, "
            "the credentials, the rights of their user and the broker's version; docs/connections.md lists them."
        )
    return UnavailableError(f"the broker at {bootstrap_servers} did not take the call: {what}")
