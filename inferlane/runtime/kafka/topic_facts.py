"""What the broker says of a topic that does not take our records: that it is gone, or how large a record it takes."""

import time
from typing import TYPE_CHECKING

import structlog
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from inferlane.errors import TopicMissingError, UnavailableError
from inferlane.runtime.kafka.clients import BROKER_ERRORS
from inferlane.runtime.topics import make_admin

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient

    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)

# A topic that was just created is not known to every broker at once: for so long its absence is not believed.
_BELIEVED_AFTER_S = 2.0
# How often the broker is asked again for a topic that is missing; it costs a call for the metadata of all topics.
_ASKED_EVERY_S = 0.5
# How long a limit that the broker told is used before a larger record is tried again: it may have been raised.
_LIMIT_KEPT_S = 15.0
_MAX_MESSAGE_BYTES = "max.message.bytes"


class TopicFacts:
    """Facts that are asked for when something failed, and kept for a while. One event loop."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._missing_since_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}
        self._limits: dict[str, tuple[int, float]] = {}

    async def partitions(self, topic: str, client: "AIOKafkaClient") -> int:
        """Return how many partitions the topic has. Creates nothing, even where the broker creates what is asked for.

        Raises:
            UnavailableError: the topic is not there yet, or not any more; ask again.
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
        """What the topic is known to take at most, in one batch or record; None when it refused nothing lately."""
        if topic not in self._limits:
            return None
        limit_bytes, until_s = self._limits[topic]
        if time.monotonic() < until_s:
            return limit_bytes
        del self._limits[topic]
        return None

    async def learn_limit(self, topic: str, *, refused_bytes: int) -> None:
        """Note that a batch of so many bytes was refused, and what the topic's own limit is if the broker tells it."""
        told_bytes = await self._ask_limit(topic)
        limit_bytes = min(refused_bytes - 1, refused_bytes if told_bytes is None else told_bytes)
        self._limits[topic] = (limit_bytes, time.monotonic() + _LIMIT_KEPT_S)
        log.warning("topic_limit_met", topic=topic, refused_bytes=refused_bytes, limit_bytes=limit_bytes)

    async def _ask_limit(self, topic: str) -> int | None:
        """The topic's `max.message.bytes`, None if we may not ask for it."""
        admin = make_admin(self._settings)
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
