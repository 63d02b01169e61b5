"""Records on which processes die: who is suspected, what is tried alone, and that nobody innocent is blamed."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.attempts import Attempt, Attempts, Isolation, judge

TOPIC = "inferlane.iris.v1.requests"
MAX_DEATHS = 3
WINDOW = 8


class FakeLog:
    """Keeps attempts as the store does, or is away."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.is_away = False
        self.writes = 0

    async def read(self, _topic: str, partitions: Sequence[int]) -> Mapping[int, Attempt]:
        self._answer()
        found = {partition: Attempt.decode(self.kept.get(partition)) for partition in partitions}
        return {partition: attempt for partition, attempt in found.items() if attempt is not None}

    async def write(self, _topic: str, attempts: Mapping[int, Attempt]) -> None:
        self._answer()
        self.writes += 1
        self.kept |= {partition: attempt.encode() for partition, attempt in attempts.items()}

    async def forget(self, _topic: str, partition: int) -> None:
        self._answer()
        self.kept.pop(partition, None)

    def _answer(self) -> None:
        if self.is_away:
            raise UnavailableError("away")


class DiedError(Exception):
    """Stands for SIGKILL: nothing that was not noted or committed is left."""


class Partition:
    """A partition with killers in it, and processes that read it one after the other as the lanes do."""

    def __init__(self, killers: set[int], records: int, log: FakeLog, *, batch: int) -> None:
        self.killers = killers
        self.records = records
        self.log = log
        self.batch = batch
        self.committed = 0
        self.answered: set[int] = set()
        self.dead_lettered: list[int] = []
        self.deaths = 0

    async def live(self) -> None:
        """One process, until it dies or everything is answered."""
        attempts = Attempts(self.log, topic=TOPIC, max_deaths=MAX_DEATHS)
        position = self.committed
        while position < self.records:
            if 0 in attempts.careful:
                position = await self._careful(attempts, position)
                continue
            await attempts.begin({0: position}, window=WINDOW)
            if 0 in attempts.careful:
                continue
            batch = range(position, min(position + self.batch, self.records))
            self._run(batch)
            position = self.committed = batch.stop

    async def _careful(self, attempts: Attempts, position: int) -> int:
        if position >= attempts.careful[0].careful_until:
            self.committed = position
            await attempts.leave(0)
            return position
        self.committed = position
        if await attempts.begin_alone(0, position) is not None:
            self.dead_lettered.append(position)
        else:
            self._run([position])
        return position + 1

    def _run(self, offsets: Sequence[int]) -> None:
        if self.killers & set(offsets):
            raise DiedError
        self.answered |= set(offsets)

    async def run(self) -> None:
        while True:
            try:
                await self.live()
            except DiedError:
                self.deaths += 1
                assert self.deaths < 200
            else:
                return


@given(
    st.sets(st.integers(0, 39), max_size=6),
    st.integers(1, WINDOW),
    st.integers(0, 8),
)
@settings(deadline=None)
async def test_every_killer_is_buried_every_neighbour_answered_and_deaths_are_few(
    killers: set[int], batch: int, committed: int
) -> None:
    log = FakeLog()
    partition = Partition(killers, 40, log, batch=batch)
    partition.committed = committed
    await partition.run()
    there = {killer for killer in killers if killer >= committed}
    assert sorted(partition.dead_lettered) == sorted(there)
    assert partition.answered == set(range(committed, 40)) - there
    # Those up to the limit, one before anything was noted, and two alone.
    assert partition.deaths <= len(there) * (MAX_DEATHS + 3)


async def test_a_process_that_lives_notes_a_partition_once() -> None:
    """Guards `_known`: without it each take would cost a round trip to the store."""
    log = FakeLog()
    attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
    for offset in range(100):
        await attempts.begin({0: offset, 1: offset}, window=WINDOW)
    assert log.writes == 1
    assert not attempts.careful
    assert not attempts.is_hurried


async def test_a_process_that_lives_does_not_suspect_its_own_note() -> None:
    """Guards `ours`: a broker that restarts empty begins at 0 again, and each restart counted as a death."""
    log = FakeLog()
    attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
    for _ in range(2 * MAX_DEATHS):
        await attempts.begin({0: 0}, window=WINDOW)
        attempts.start_over()
    assert not attempts.careful
    assert not attempts.is_hurried
    for _ in range(MAX_DEATHS - 1):
        # Another process has it, and dies; then the first one gets it again.
        await Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS).begin({0: 0}, window=WINDOW)
    await attempts.begin({0: 0}, window=WINDOW)
    assert 0 in attempts.careful


async def test_a_process_that_lives_does_not_condemn_what_it_tried_alone() -> None:
    log = FakeLog()
    for _ in range(MAX_DEATHS):
        attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
        await attempts.begin({0: 0}, window=WINDOW)
    for _ in range(5):
        assert 0 in attempts.careful
        assert await attempts.begin_alone(0, 0) is None
        attempts.start_over()
        await attempts.begin({0: 0}, window=WINDOW)


async def test_progress_between_deaths_is_no_suspicion() -> None:
    """Processes that are killed for another reason, each after some records, never make one go record by record."""
    log = FakeLog()
    for number in range(20):
        attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
        await attempts.begin({0: number}, window=WINDOW)
        assert not attempts.careful


async def test_a_log_that_is_away_holds_no_record_up_and_lets_none_be_tried_alone() -> None:
    log = FakeLog()
    log.kept[0] = Attempt(offset=5, begun=9).encode()
    attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
    log.is_away = True
    await attempts.begin({0: 5}, window=WINDOW)
    log.is_away = False
    attempts.start_over()
    await attempts.begin({0: 5}, window=WINDOW)
    assert 0 in attempts.careful
    log.is_away = True
    with pytest.raises(UnavailableError):
        await attempts.begin_alone(0, 5)


async def test_records_before_the_one_that_killed_are_not_noted_over_it() -> None:
    """A commit was lost, so the next process begins before the record of which the last one died."""
    log = FakeLog()
    log.kept[0] = Attempt(offset=7, begun=2, alone=2, careful_until=20).encode()
    attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
    await attempts.begin({0: 5}, window=WINDOW)
    assert await attempts.begin_alone(0, 5) is None
    assert Attempt.decode(log.kept[0]) == Attempt(offset=7, begun=2, alone=2, careful_until=20)
    assert await attempts.begin_alone(0, 7) is not None


async def test_a_process_that_is_killed_from_outside_while_a_record_is_alone_does_not_condemn_it() -> None:
    """Guards `_DEATHS_ALONE`: taken out, a kill that has nothing to do with the record makes a dead letter of it."""
    log = FakeLog()
    log.kept[0] = Attempt(offset=7, begun=2, careful_until=20).encode()
    for condemned in (False, False, True):
        attempts = Attempts(log, topic=TOPIC, max_deaths=MAX_DEATHS)
        await attempts.begin({0: 7}, window=WINDOW)
        # Whoever works on it dies now, for whatever reason.
        assert (await attempts.begin_alone(0, 7) is not None) is condemned


@given(st.binary(max_size=30))
def test_foreign_bytes_tell_nothing_or_something_whole(raw: bytes) -> None:
    attempt = Attempt.decode(raw)
    assert attempt is None or judge(attempt, 0, max_deaths=MAX_DEATHS, window=WINDOW)


async def test_nothing_runs_beside_what_runs_alone() -> None:
    isolation = Isolation()
    running: set[str] = set()
    seen: list[frozenset[str]] = []

    async def work(name: str, *, alone: bool) -> None:
        async with isolation.alone() if alone else isolation.beside_others():
            running.add(name)
            seen.append(frozenset(running))
            for _ in range(3):
                await asyncio.sleep(0)
            running.discard(name)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(work(f"{'alone' if number % 5 == 0 else 'beside'}-{number}", alone=number % 5 == 0))
    assert all(len(names) == 1 for names in seen if any(name.startswith("alone") for name in names))
    assert max(len(names) for names in seen) > 1
