"""A compacted topic of one partition as a table that every replica reads whole and keeps up to date."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from inferlane.errors import DecodeError, InferlaneError, UnavailableError
from inferlane.runtime.kafka.arrivals import ArrivalListener
from inferlane.runtime.kafka.clients import broker_errors, make_consumer
from inferlane.runtime.kafka.fetcher import rest_between_fetches
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_RETRY_S = 1.0
# How long the broker holds an empty fetch; and the pause between two fetches where signals announce changes. Whoever
# changes a table sends one (`publish_to_table`, our producers): the pause is what a lost signal costs. Shorter makes
# an idle stack ask the broker more often, for each table of each process.
_FETCH_WAIT_MS = 200
_REST_MS = 5_000
# How often to look for a topic that does not exist yet.
_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class TableMark:
    """How far a table was at a moment: the last offset in force, and how often its topic had begun anew."""

    offset: int
    beginnings: int


class CompactedTable(ABC):
    """The records in force on this replica: the last record of each key."""

    # What error messages call a record.
    what = "record"

    def __init__(self) -> None:
        self._applied_offset = -1
        # How often the positions went back: the topic was deleted and created again, or its broker forgot it.
        self._beginnings = 0
        # What the topic says of each key since its beginning.
        self._said: dict[str, bytes | None] = {}
        self._changed = asyncio.Condition()

    @abstractmethod
    def in_force(self) -> Mapping[str, bytes]:
        """Return the records in force by key, as they are written to the topic."""

    def unsaid(self) -> Mapping[str, bytes]:
        """Return the records in force that are not those of the topic: it began anew, and forgot them."""
        return {key: value for key, value in self.in_force().items() if self._said.get(key) != value}

    @property
    def beginnings(self) -> int:
        """How often the topic began anew."""
        return self._beginnings

    @abstractmethod
    def put(self, key: str, value: bytes | None) -> None:
        """Put the value of a key in force; None is a tombstone.

        Raises:
            DecodeError: the value cannot be read, or there is no room for it; the table is as it was.
        """

    async def apply(self, offset: int, raw_key: bytes | None, raw_value: bytes | None) -> None:
        """Apply one record; a record that cannot be read changes nothing."""
        self.read(offset, raw_key, raw_value)
        await self.note_position(offset + 1)

    def read(self, offset: int, raw_key: bytes | None, raw_value: bytes | None) -> None:
        """Read one record of several; all are in force with the next `note_position`."""
        if offset <= self._applied_offset:
            self._begin_anew()
        key = (raw_key or b"").decode(errors="replace")
        self._said[key] = raw_value
        try:
            self.put(key, raw_value)
        except DecodeError as error:
            log.warning("table_record_undecodable", what=self.what, offset=offset, error=str(error))
        except Exception:
            # The record stays in the topic: each process that reads it would end at each of its starts.
            log.exception("table_record_not_read", what=self.what, offset=offset)

    async def note_position(self, position: int) -> None:
        """Note that every record before `position` is in force."""
        async with self._changed:
            if position - 1 < self._applied_offset:
                self._begin_anew()
            self._applied_offset = position - 1
            self._changed.notify_all()

    def _begin_anew(self) -> None:
        self._beginnings += 1
        self._applied_offset = -1
        self._said.clear()

    def mark(self) -> TableMark:
        """Return how far the table is now; to be asked for before a record is written whose offset is waited for."""
        return TableMark(self._applied_offset, self._beginnings)

    async def changed(self, *, timeout_s: float) -> None:
        """Return when anything was read, or after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait()

    async def begun_anew(self, beginnings: int) -> None:
        """Return when the topic has begun anew more often than this."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._beginnings > beginnings)

    async def wait_applied(self, offset: int, *, timeout_s: float, since: TableMark | None = None) -> None:
        """Return when the record at `offset` is in force here.

        An offset that was in force at `since`, before the record was written, is that of a record of a forgotten topic.

        Raises:
            UnavailableError: it was not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._is_in_force(offset, since))
        except TimeoutError as error:
            raise UnavailableError(
                f"the {self.what} is stored but not in force here after {timeout_s} s; ask again"
            ) from error

    def _is_in_force(self, offset: int, since: TableMark | None) -> bool:
        is_ours = since is None or offset > since.offset or self._beginnings > since.beginnings
        return is_ours and self._applied_offset >= offset


class TableFollower:
    """Keeps a table up to date with its topic, from the first record on. Has no group: every replica reads it all."""

    def __init__(
        self, kafka: "KafkaSettings", table: CompactedTable, *, topic: str, may_be_missing: bool = False
    ) -> None:
        """A topic that `may_be_missing` is an empty table until somebody creates it; then it is followed."""
        self._kafka = kafka
        self._partition = TopicPartition(topic, 0)
        self._table = table
        self._may_be_missing = may_be_missing
        self._consumer: AIOKafkaConsumer | None = None
        self._arrivals: ArrivalListener | None = None
        if kafka.rests_dir is not None:
            self._arrivals = ArrivalListener(kafka.rests_dir, topic, unheard_s=_FETCH_WAIT_MS / 1000)
        self._is_there = False
        self._following: Background | None = None

    async def start(self) -> None:
        """Return when the table holds all that was in the topic.

        Raises:
            UnavailableError: the broker does not answer.
        """
        wait_ms = _FETCH_WAIT_MS if self._arrivals is None else _REST_MS
        consumer = self._consumer = make_consumer(self._kafka, group=None, fetch_max_wait_ms=wait_ms, grows=False)
        try:
            with broker_errors(self._kafka.bootstrap_servers):
                await consumer.start()
                if self._arrivals is not None:
                    self._arrivals.listen()
                    rest_between_fetches(consumer, self._arrivals, wakes_fetches=False)
                end = await self._assign(consumer)
            self._following = Background(partial(self._follow, consumer), name=self._table.what)
            self._following.start()
            if end is None:
                log.warning("topic_missing", topic=self._partition.topic, remedy="inferlane topics create")
                return
            await self._table.wait_applied(end - 1, timeout_s=self._kafka.request_timeout_ms / 1000)
        except BaseException:
            await self.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether changes still reach the table."""
        return self._following is not None and self._following.is_running

    async def catch_up(self, *, timeout_s: float) -> None:
        """Return when the table holds what is in the topic now, or after `timeout_s`, or if the broker does not answer.

        Call it on meeting a key that the table lacks: its sender may have read the topic a moment earlier.
        """
        if self._consumer is None or not self._is_there:
            return
        try:
            await self.read_to_end(timeout_s=timeout_s)
        except InferlaneError as error:
            log.warning("table_not_caught_up", what=self._table.what, error=repr(error))

    async def read_to_end(self, *, timeout_s: float) -> None:
        """Return when the table holds what is in the topic now.

        Raises:
            UnavailableError: it did not within `timeout_s`, or the topic does not exist.
        """
        if self._consumer is None:
            raise UnavailableError(f"the topic {self._partition.topic} is not read here; ask again")
        try:
            async with asyncio.timeout(timeout_s):
                end = (await self._consumer.end_offsets([self._partition]))[self._partition]
        except (KafkaError, TimeoutError) as error:
            raise UnavailableError(f"the end of {self._partition.topic} is not known: {error!r}") from error
        if self._arrivals is not None:
            # New records may come from a producer that sends no signals.
            self._arrivals.wake()
        await self._table.wait_applied(end - 1, timeout_s=timeout_s)

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            await self._following.close()
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None
        if self._arrivals is not None:
            self._arrivals.close()

    async def _assign(self, consumer: "AIOKafkaConsumer") -> int | None:
        """Go to the first record of the topic and return its end; None if there is no such topic."""
        if self._may_be_missing and self._partition.topic not in await consumer.topics():
            return None
        consumer.assign([self._partition])
        await consumer.seek_to_beginning(self._partition)
        end: int = (await consumer.end_offsets([self._partition]))[self._partition]
        self._is_there = True
        return end

    async def _follow(self, consumer: "AIOKafkaConsumer") -> None:
        while True:
            try:
                if self._is_there:
                    await self._read(consumer)
                else:
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    await self._assign(consumer)
            except KafkaError as error:
                log.warning("table_not_read", what=self._table.what, error=repr(error), retry_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                # An error of whoever is told of changes; the next change is followed again.
                log.exception("table_change_not_followed", what=self._table.what)
                await asyncio.sleep(_RETRY_S)

    async def _read(self, consumer: "AIOKafkaConsumer") -> None:
        fetched = await consumer.getmany(timeout_ms=int(_POLL_S * 1000))
        for records in fetched.values():
            for record in records:
                self._table.read(record.offset, record.key, record.value)
        # Compaction and markers leave offsets without a record; the position skips them.
        await self._table.note_position(await consumer.position(self._partition))
