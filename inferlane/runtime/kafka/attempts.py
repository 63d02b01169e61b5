"""Records that kill their process: counts that outlive the process find them, and they become dead letters.

The owner of a partition notes the offset at which it begins. If the next owner begins at the same offset, the one
before died there, since a live owner commits finished work. After some deaths the records there are tried one at a
time with nothing else in work, and each is noted before: a record that was noted twice has killed the process alone.

Only the first records after an assignment are noted, so the steady state costs nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from inferlane.errors import FatalRecordError, UnavailableError
from inferlane.runtime.redis.connection import store_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names

log = structlog.get_logger(__name__)

# How long an unavailable store may delay the first records of a partition.
_READ_TIMEOUT_S = 1.0
# After a death, commits do not wait for their interval, so that the next death leaves the offset that kills.
_HURRY_S = 60.0
# One death with nothing else in work may have a cause outside, such as a node short of memory; two hardly can.
_DEATHS_ALONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The note of a partition: where work began, how often it died there, and how far to go record by record.

    `alone`: how often the record at `offset` was in work with nothing else.
    """

    offset: int
    begun: int = 0
    alone: int = 0
    careful_until: int = 0

    def encode(self) -> bytes:
        """Return the bytes that are kept of it."""
        return b"%d %d %d %d" % (self.offset, self.begun, self.alone, self.careful_until)

    @classmethod
    def decode(cls, raw: bytes | None) -> "Attempt | None":
        """Decode a stored note; None if there is none, or if the bytes are something else."""
        try:
            offset, begun, alone, careful_until = (int(part) for part in (raw or b"").split())
        except ValueError:
            return None
        return cls(offset=offset, begun=begun, alone=alone, careful_until=careful_until)


def judge(last: Attempt | None, first_offset: int, *, max_deaths: int, window: int) -> Attempt:
    """Return the note of a partition whose first record is at `first_offset`, from its last owner's note. Pure.

    `window` is the number of records from there that may have been in work.
    """
    if last is None or (last.offset != first_offset and last.careful_until <= first_offset):
        return Attempt(offset=first_offset, begun=1)
    if last.careful_until > first_offset:
        return last
    # The first death may have happened before anything was noted.
    if last.begun >= max(1, max_deaths - 1):
        return replace(last, careful_until=first_offset + window)
    return replace(last, begun=last.begun + 1)


class AttemptLog(Protocol):
    """Stores the notes of a topic's partitions. Each call raises `UnavailableError` while the store is unavailable."""

    async def read(self, topic: str, partitions: Sequence[int]) -> Mapping[int, Attempt]: ...

    async def write(self, topic: str, attempts: Mapping[int, Attempt]) -> None: ...

    async def forget(self, topic: str, partition: int) -> None: ...


class Attempts:
    """The attempts of one consumer at the partitions of a topic. Used from one event loop."""

    def __init__(self, kept: AttemptLog | None, *, topic: str, max_deaths: int) -> None:
        """Without a log nothing is counted."""
        self._log = kept
        self._topic = topic
        self._max_deaths = max_deaths
        self._known: set[int] = set()
        # What this process has noted last of each partition, also of those that it lost.
        self._noted: dict[int, Attempt] = {}
        self._careful: dict[int, Attempt] = {}
        self._hurried_until_s = 0.0

    @property
    def careful(self) -> Mapping[int, Attempt]:
        """The partitions that are read one record at a time."""
        return self._careful

    @property
    def is_hurried(self) -> bool:
        """Whether finished work should be committed at once, because a process died here."""
        return time.monotonic() < self._hurried_until_s

    def start_over(self) -> None:
        """Forget all partitions: others own them now."""
        self._known.clear()
        self._careful.clear()

    async def begin(self, firsts: Mapping[int, int], *, window: int) -> None:
        """Note that work begins at these offsets; `careful` then has the partitions with too many deaths.

        If the log does not answer, nothing is noted: that must not delay the records.
        """
        new = {partition: offset for partition, offset in firsts.items() if partition not in self._known}
        if not new or self._log is None:
            return
        self._known.update(new)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                last = await self._log.read(self._topic, list(new))
                # Our own note, and we live: the group was joined anew, or the broker has forgotten the topic.
                ours = {
                    partition
                    for partition, attempt in last.items()
                    if attempt == self._noted.get(partition) and attempt.offset == new[partition]
                }
                noted = {
                    partition: replace(last[partition], alone=max(0, last[partition].alone - 1))
                    if partition in ours
                    else judge(last.get(partition), offset, max_deaths=self._max_deaths, window=window)
                    for partition, offset in new.items()
                }
                self._careful.update(
                    {partition: attempt for partition, attempt in noted.items() if attempt.careful_until}
                )
                await self._log.write(self._topic, noted)
                self._noted.update(noted)
        except (UnavailableError, TimeoutError) as error:
            log.warning("attempts_not_counted", topic=self._topic, partitions=sorted(new), error=repr(error))
            return
        died = {partition: last[partition] for partition in noted.keys() - ours if noted[partition].begun > 1}
        if died:
            self._hurried_until_s = time.monotonic() + _HURRY_S
            log.warning(
                "process_died_here",
                topic=self._topic,
                offsets={partition: attempt.offset for partition, attempt in died.items()},
                deaths=max(attempt.begun for attempt in died.values()),
                one_by_one=sorted(self._careful),
            )

    async def begin_alone(self, partition: int, offset: int) -> FatalRecordError | None:
        """Note that this record runs with nothing beside it; return the error to end it with if it has killed before.

        Raises:
            UnavailableError: the log does not answer; do not work on the record.
        """
        attempt = self._careful.get(partition)
        if self._log is None or attempt is None or (attempt.alone and offset < attempt.offset):
            # Another process owns the partition now, or the record comes before the suspect one.
            return None
        tried = attempt.alone if offset == attempt.offset else 0
        if tried >= _DEATHS_ALONE:
            return FatalRecordError(
                f"the process that worked on this record (offset {offset} of partition {partition} of {self._topic}) "
                f"died {tried} times with nothing else in work, after {attempt.begun} deaths at this place; it is not "
                "tried again. Look at the memory limit of the process and at the model, then replay the dead letter"
            )
        noted = replace(attempt, offset=offset, alone=tried + 1)
        await self._log.write(self._topic, {partition: noted})
        self._careful[partition] = self._noted[partition] = noted
        return None

    async def leave(self, partition: int) -> None:
        """Note that the partition has no suspect record any more."""
        self._careful.pop(partition, None)
        self._noted.pop(partition, None)
        if self._log is not None:
            try:
                await self._log.forget(self._topic, partition)
            except UnavailableError as error:
                # The next owner continues record by record for a while.
                log.warning("attempts_not_forgotten", topic=self._topic, partition=partition, error=str(error))


# Longer than a partition stays without an owner; an older note says nothing about the process of today.
_KEPT_S = 24 * 3600


class RedisAttemptLog:
    """An `AttemptLog` in the result store."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: "Names") -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._names = names

    async def read(self, topic: str, partitions: Sequence[int]) -> Mapping[int, Attempt]:
        """Return what was noted last of each partition of which anything was.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            for partition in partitions:
                pipeline.get(self._key(topic, partition))
            found = await pipeline.execute()
        attempts = {partition: Attempt.decode(raw) for partition, raw in zip(partitions, found, strict=True)}
        return {partition: attempt for partition, attempt in attempts.items() if attempt is not None}

    async def write(self, topic: str, attempts: Mapping[int, Attempt]) -> None:
        """Note these, each over what was noted of its partition.

        Raises:
            UnavailableError: the store does not answer, or is full.
        """
        async with store_errors(self._redis_url), self._redis.pipeline(transaction=False) as pipeline:
            for partition, attempt in attempts.items():
                pipeline.set(self._key(topic, partition), attempt.encode(), ex=_KEPT_S)
            await pipeline.execute()

    async def forget(self, topic: str, partition: int) -> None:
        """Delete the note of the partition.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.delete(self._key(topic, partition))

    def _key(self, topic: str, partition: int) -> str:
        return self._names.store_key("attempt", topic, partition)


class Isolation:
    """Lets any number of blocks run at once, or one alone; one that waits to be alone goes first. One event loop."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Run the block beside others, but never beside one that runs alone."""
        if self._alone.locked():
            async with self._alone:
                pass
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run the block with nothing beside it."""
        async with self._alone:
            await self._idle.wait()
            yield
