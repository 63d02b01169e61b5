"""The connection of a producer: it is replaced when the broker refuses it for good, and it reads facts of topics."""

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError

from inferlane.errors import InferlaneError, RecordRefusedError, TopicMissingError, UnavailableError
from inferlane.runtime.error_remedies import Remedy, remedy_of
from inferlane.runtime.kafka.clients import BROKER_ERRORS, broker_errors, broker_failure, make_admin, make_producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka.client import AIOKafkaClient
    from aiokafka.cluster import ClusterMetadata

    from inferlane.runtime.kafka.direct_producer import DirectProducer
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)


class RenewableProducer:
    """aiokafka's producer, and another in its place once it is spent. Used from one event loop.

    Once the broker refuses the sequence or session of an idempotent producer, it refuses that producer for ever.
    """

    def __init__(self, kafka: "KafkaSettings", *, on_metadata: "Callable[[ClusterMetadata], None]") -> None:
        """`on_metadata` is called with the broker's metadata of topics each time that they are read."""
        self._kafka = kafka
        self._on_metadata = on_metadata
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._producer: DirectProducer | None = None
        self._is_spent = self._is_closed = False
        self._renewing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: the broker does not answer.
            NotServedError: the broker does not let us in.
        """
        self._producer = await self._connect()

    async def close(self) -> None:
        """Flush the records under way and disconnect, after a renewal under way: it would leave a producer open."""
        self._is_closed = True
        async with self._renewing:
            producer, self._producer = self._producer, None
        if producer is not None:
            await self._stop(producer)
        await asyncio.gather(*self._closing)

    @property
    def current(self) -> "DirectProducer":
        """The producer to send with now.

        Raises:
            UnavailableError: it is not connected.
        """
        if self._producer is None:
            raise UnavailableError("the producer is not connected; call start() first")
        return self._producer

    def note_spent(self, producer: "DirectProducer") -> None:
        """Note that the broker refuses this producer from now on; no change if it was replaced already."""
        self._is_spent |= producer is self._producer

    @property
    def is_spent(self) -> bool:
        """Whether the broker refuses the current producer, or there is none: `renewed` does not return at once."""
        return self._is_spent or self._producer is None

    async def renewed(self) -> "DirectProducer":
        """Return the producer to send with now, after a spent one was replaced.

        The records of the spent producer are flushed in the background.

        Raises:
            UnavailableError: it is not connected, or the broker does not answer.
            NotServedError: the broker does not let us in.
        """
        if self._is_spent:
            await self._renew()
        return self.current

    async def _renew(self) -> None:
        async with self._renewing:
            if not self._is_spent or self._is_closed:
                return
            log.warning("producer_renewed")
            spent, self._producer = self._producer, await self._connect()
            self._is_spent = False
        if spent is not None:
            closing = asyncio.create_task(self._stop(spent), name="producer:close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _connect(self) -> "DirectProducer":
        producer = make_producer(self._kafka)
        try:
            with broker_errors(self._kafka.bootstrap_servers):
                await producer.start()
        except BaseException:
            await producer.stop()
            raise
        producer.client.cluster.add_listener(self._on_metadata)
        return producer

    async def _stop(self, producer: "DirectProducer") -> None:
        # An idempotent producer never gives up a flush by itself; the rest is abandoned.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await producer.stop()


def write_failure(kafka: "KafkaSettings", topic: str, error: BaseException) -> InferlaneError:
    """Return the error for a record of the topic that was not written."""
    if type(error) is TimeoutError:
        return UnavailableError(
            f"{topic} did not acknowledge within {kafka.request_timeout_ms / 1000:g} s; it is sent again"
        )
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, TopicAuthorizationFailedError):
        return RecordRefusedError(
            f"the broker denies writing to {topic} ({what}); grant the user Write and Describe on it, "
            "docs/security.md lists the rights"
        )
    if remedy_of(error) is Remedy.REFUSE:
        return RecordRefusedError(f"{topic} does not take the record ({what}); look at the settings of the topic")
    return broker_failure(error, kafka.bootstrap_servers)


# Brokers learn of a new topic one after the other: a topic counts as missing only after this many seconds.
_BELIEVED_AFTER_S = 2.0
# Seconds between two looks for a missing topic; each reads the metadata of all topics.
_ASKED_EVERY_S = 0.5
# Seconds for which a known size limit is used before a larger record is tried again: it may have been raised.
_LIMIT_KEPT_S = 15.0
_MAX_MESSAGE_BYTES = "max.message.bytes"


class TopicFacts:
    """Facts about topics, read after a failure and kept for a while. Used from one event loop."""

    def __init__(self, kafka: "KafkaSettings") -> None:
        self._kafka = kafka
        self._missing_since_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}
        self._limits: dict[str, tuple[int, float]] = {}

    async def partitions(self, topic: str, client: "AIOKafkaClient") -> int:
        """Return how many partitions the topic has. Creates nothing, even if the broker creates topics on request.

        Raises:
            UnavailableError: the topic does not exist yet, or no longer; call again.
            TopicMissingError: it has been missing for a while.
            KafkaError: the broker does not answer.
        """
        now_s = time.monotonic()
        if now_s - self._asked_s.get(topic, -_ASKED_EVERY_S) < _ASKED_EVERY_S and topic in self._missing_since_s:
            raise self._missing(topic, now_s)
        self._asked_s[topic] = now_s
        found = (await client.fetch_all_metadata()).partitions_for_topic(topic)
        if not found:
            self._missing_since_s.setdefault(topic, now_s)
            raise self._missing(topic, now_s)
        self._missing_since_s.pop(topic, None)
        return len(found)

    def _missing(self, topic: str, now_s: float) -> UnavailableError | TopicMissingError:
        what = f"the broker has no topic {topic}; create it with `inferlane topics create`"
        if now_s - self._missing_since_s[topic] < _BELIEVED_AFTER_S:
            return UnavailableError(what)
        return TopicMissingError(f"{what}, then send the request again or replay its dead letter")

    def limit_bytes(self, topic: str) -> int | None:
        """Return the topic's known size limit of a batch or record; None if it refused nothing lately."""
        if topic not in self._limits:
            return None
        limit_bytes, until_s = self._limits[topic]
        if time.monotonic() < until_s:
            return limit_bytes
        del self._limits[topic]
        return None

    async def learn_limit(self, topic: str, *, refused_bytes: int) -> None:
        """Note that a batch of this size was refused, and the topic's own limit if the broker tells it."""
        told_bytes = await self._ask_limit(topic)
        limit_bytes = min(refused_bytes - 1, refused_bytes if told_bytes is None else told_bytes)
        self._limits[topic] = (limit_bytes, time.monotonic() + _LIMIT_KEPT_S)
        log.warning("topic_limit_met", topic=topic, refused_bytes=refused_bytes, limit_bytes=limit_bytes)

    async def _ask_limit(self, topic: str) -> int | None:
        """Return the topic's `max.message.bytes`, None if we may not read it."""
        admin = make_admin(self._kafka)
        try:
            await admin.start()
            wanted = ConfigResource(ConfigResourceType.TOPIC, topic, configs={_MAX_MESSAGE_BYTES: ""})
            (answer,) = await admin.describe_configs([wanted])
            for _, _, _, _, entries in answer.resources:
                for name, value, *_ in entries:
                    if name == _MAX_MESSAGE_BYTES:
                        return int(value)
        except (*BROKER_ERRORS, ValueError) as error:
            log.debug("topic_limit_not_told", topic=topic, error=repr(error))
        finally:
            await admin.close()
        return None
