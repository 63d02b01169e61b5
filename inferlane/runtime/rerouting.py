"""Move the requests that wait for an abandoned version to another version: same ids, one result each."""

from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from aiokafka import TopicPartition

from inferlane.contracts.fallback import is_movable, rerouted_record
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_unidentified
from inferlane.errors import DecodeError
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.kafka.topic_reader import read_from
from inferlane.runtime.redis.connection import store_errors
from inferlane.runtime.repeating import repeat_for_ever

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis

    from inferlane.contracts.kafka_record import KafkaRecord, OutRecord
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# How often a worker reads what was moved away. Seldom computes more in vain, often costs the store commands.
_READ_S = 2.0
# A worker that is away for longer computes moved requests again; the first result of each request stays.
_KEEP_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Moved:
    """Up to which offset of a partition requests were moved, and when, in milliseconds since the epoch."""

    end: int
    at_ms: int


class MovedRequests:
    """The requests that were moved away from the workers of a version. Used from one event loop."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: Names, clock: "Clock") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._names = names
        self._clock = clock
        self._seen: Mapping[tuple[Lane, int], Moved] = {}

    async def note(self, model: str, version: str, lane: Lane, partition: int, end: int) -> None:
        """Note that the requests of a partition before `end` are in another topic.

        Raises:
            UnavailableError: the store does not answer.
        """
        key = self._key(model, version)
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(key, f"{lane} {partition}", f"{end} {int(self._clock.now_s() * 1000)}")
            pipeline.expire(key, _KEEP_S)
            await pipeline.execute()

    async def read(self, model: str, version: str) -> None:
        """Read what was moved away from a version.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            raw: Any = await self._redis.hgetall(self._key(model, version))
        seen: dict[tuple[Lane, int], Moved] = {}
        for field, value in raw.items():
            try:
                lane, partition = field.decode().split()
                end, at_ms = value.decode().split()
                seen[Lane(lane), int(partition)] = Moved(int(end), int(at_ms))
            except ValueError:
                # Written by somebody else: that must not end this worker.
                continue
        self._seen = seen

    async def read_for_ever(self, model: str, version: str) -> NoReturn:
        """Read every few seconds until cancelled; keep the last state while the store is unavailable."""
        read = partial(self.read, model, version)
        await repeat_for_ever(read, every_s=_READ_S, on_failure="moved_requests_not_read")

    def left(self, records: "Sequence[KafkaRecord]", lane: Lane) -> "Sequence[KafkaRecord]":
        """Return the records that were not moved away."""
        if not self._seen:
            return records
        return [record for record in records if not self._is_moved(record, lane)]

    def _is_moved(self, record: "KafkaRecord", lane: Lane) -> bool:
        moved = self._seen.get((lane, record.partition))
        # The time identifies records of a topic that was recreated, whose offsets start again.
        if moved is None or record.offset >= moved.end or record.timestamp > moved.at_ms:
            return False
        try:
            return is_movable(read_unidentified(record))
        except DecodeError:
            return False

    def _key(self, model: str, version: str) -> str:
        return self._names.store_key("moved", model, version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerouted:
    """How many records were moved, and how many were left: pinned, shadow copies, or unreadable."""

    moved: int = 0
    left: int = 0


async def reroute_backlog(  # noqa: PLR0913 - from where, to where, and what notes it
    kafka: "KafkaSettings",
    names: "Names",
    *,
    model: str,
    version: str,
    to_version: str,
    producer: "BatchProducer",
    moved: MovedRequests,
) -> Rerouted:
    """Move what waits for a version, in both lanes, to the topics of another version; set its weight to 0 first.

    It reads from the committed offsets on, so the requests in work of a hanging worker are moved too. The store keeps
    the first result of each request. The version's own workers skip moved requests when they reach them. May be
    called again: requests that were already moved are moved a second time, and answered once.

    Raises:
        UnavailableError: the broker or the store does not answer; call it again.
        PayloadTooLargeError, RecordRefusedError: a record can never be written; those after it are not moved.
    """
    moving = _Moving(kafka=kafka, names=names, version=version, to_version=to_version, producer=producer)
    for lane in Lane:
        ends = await moving.move(model, lane)
        for partition, end in ends.items():
            # Only now: a request that workers skip must already be durable elsewhere.
            await moved.note(model, version, lane, partition, end)
    log.info("backlog_rerouted", model=model, version=version, to_version=to_version, moved=moving.moved)
    return Rerouted(moved=moving.moved, left=moving.left)


@dataclass(slots=True, kw_only=True)
class _Moving:
    kafka: "KafkaSettings"
    names: "Names"
    version: str
    to_version: str
    producer: "BatchProducer"
    moved: int = 0
    left: int = 0

    async def move(self, model: str, lane: Lane) -> dict[int, int]:
        """Return the offset after the last record that was looked at, by partition."""
        ends = dict[int, int]()
        topic = self.names.work_topic(model, self.version, lane)
        starts = await _committed(self.kafka, self.names, topic, model, self.version)
        async with aclosing(read_from(self.kafka, starts)) as batches:
            async for records in batches:
                made = [record for one in records if (record := self._made(one, lane)) is not None]
                await self.producer.send(made)
                self.moved += len(made)
                self.left += len(records) - len(made)
                ends |= {record.partition: record.offset + 1 for record in records}
        return ends

    def _made(self, record: "KafkaRecord", lane: Lane) -> "OutRecord | None":
        try:
            headers = read_unidentified(record)
        except DecodeError:
            # The version's own worker ends it.
            return None
        return rerouted_record(record, headers, to_version=self.to_version, names=self.names, lane=lane)


async def _committed(
    kafka: "KafkaSettings", names: "Names", topic: str, model: str, version: str
) -> dict[TopicPartition, int]:
    """Return where the workers of a version are in a topic of theirs; nothing if there is no such topic."""
    reader = BacklogReader(kafka)
    subscription = Subscription(topic, names.worker_group(model, version))
    try:
        positions = (await reader.read_partitions([subscription])).get(subscription, ())
    finally:
        await reader.close()
    return {TopicPartition(topic, number): position.done for number, position in enumerate(positions)}
