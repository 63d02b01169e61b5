"""Traffic splits: weights of a model's versions, kept in a compacted topic that every replica reads whole."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from inferlane.contracts.traffic_split import Split, decode_split
from inferlane.errors import DecodeError, UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_consumer, make_producer
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.config import Settings
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_POLL_S = 0.5
_RETRY_S = 1.0
_STOP_TIMEOUT_S = 0.5
# Models that one table holds of what anybody wrote to the topic.
_MAX_MODELS = 1_000
_encode = msgspec.json.Encoder().encode


class SplitTable:
    """Every split in force on this replica, in the order of the topic."""

    def __init__(self) -> None:
        self._splits: dict[str, Split] = {}
        self._applied_offset = -1
        self._changed = asyncio.Condition()

    def get(self, model: str) -> Split | None:
        """The split of a model, or None while nobody has set one."""
        return self._splits.get(model)

    async def apply(self, offset: int, raw_key: bytes | None, raw_value: bytes | None) -> None:
        """Apply one record; a tombstone removes the split, a record that cannot be read changes nothing."""
        model = (raw_key or b"").decode(errors="replace")
        try:
            if raw_value is None:
                self._splits.pop(model, None)
            else:
                self._put(decode_split(raw_value))
        except DecodeError as error:
            log.warning("split_undecodable", offset=offset, error=str(error))
        await self.note_position(offset + 1)

    def _put(self, split: Split) -> None:
        if split.model not in self._splits and len(self._splits) >= _MAX_MODELS:
            raise DecodeError(f"there are splits of {_MAX_MODELS} models already, more are not kept")
        self._splits[split.model] = split

    async def note_position(self, position: int) -> None:
        """Note that every record before `position` is in force."""
        async with self._changed:
            self._applied_offset = position - 1
            self._changed.notify_all()

    async def wait_applied(self, offset: int, *, timeout_s: float) -> None:
        """Return when the record at `offset` is in force here.

        Raises:
            UnavailableError: it was not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._applied_offset >= offset)
        except TimeoutError as error:
            raise UnavailableError(
                f"the split is stored but not in force here after {timeout_s} s; ask again"
            ) from error


class SplitFollower:
    """Keeps a table as the topic says, from its first record on. Has no group: every replica reads it all."""

    def __init__(self, settings: "Settings", table: SplitTable) -> None:
        self._settings = settings
        self._partition = TopicPartition(settings.names.splits, 0)
        self._table = table
        self._following: Background | None = None

    async def start(self) -> None:
        """Return when the table holds all that was in the topic.

        Raises:
            UnavailableError: the broker does not answer.
        """
        consumer, end = await self._open()
        self._following = Background(partial(self._follow, consumer), name="splits")
        self._following.start()
        try:
            await self._table.wait_applied(end - 1, timeout_s=self._settings.kafka_request_timeout_ms / 1000)
        except BaseException:
            await self.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether changes still reach the table."""
        return self._following is not None and self._following.is_running

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            await self._following.close()

    async def _open(self) -> tuple["AIOKafkaConsumer", int]:
        consumer = make_consumer(self._settings, group=None, fetch_max_wait_ms=200)
        try:
            with broker_errors(self._settings.kafka_bootstrap_servers):
                await consumer.start()
                consumer.assign([self._partition])
                await consumer.seek_to_beginning(self._partition)
                end = (await consumer.end_offsets([self._partition]))[self._partition]
        except BaseException:
            await consumer.stop()
            raise
        return consumer, end

    async def _follow(self, consumer: "AIOKafkaConsumer") -> None:
        try:
            while True:
                try:
                    fetched = await consumer.getmany(timeout_ms=int(_POLL_S * 1000))
                    for records in fetched.values():
                        for record in records:
                            await self._table.apply(record.offset, record.key, record.value)
                    # Compaction and markers leave offsets that hold no record: the position passes them.
                    await self._table.note_position(await consumer.position(self._partition))
                except KafkaError as error:
                    log.warning("splits_not_read", error=repr(error), retry_s=_RETRY_S)
                    await asyncio.sleep(_RETRY_S)
        finally:
            await consumer.stop()


async def publish_split(settings: "KafkaSettings", split: Split) -> int:
    """Write a split to the topic and return its offset. Rare, so it opens a connection of its own.

    Raises:
        UnavailableError: the broker does not answer; the split may or may not be written.
    """
    producer = make_producer(settings)
    try:
        with broker_errors(settings.kafka_bootstrap_servers):
            await producer.start()
            topic, key = settings.names.splits, split.model.encode()
            written = await producer.send_and_wait(topic, key=key, value=_encode(split), partition=0)
            return int(written.offset)
    finally:
        # An idempotent producer never gives up a flush by itself, and somebody waits for the answer.
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await producer.stop()
