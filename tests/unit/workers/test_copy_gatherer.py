"""Shadow copies are gathered across batches within bounds; none outlives its original, and what is lost is counted."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from inferlane.contracts.kafka_record import OutRecord
from inferlane.errors import InferlaneError, UnavailableError
from tests.support.fakes.clock import FakeClock
from workers.copy_gatherer import CopyGatherer, GatheredCopy, GatherLimits

NEVER_S = 3_600.0
LIMIT_S = 30


@dataclass
class FakeSender:
    """Keeps each write; while it is `away`, none ends."""

    writes: list[list[bytes]] = field(default_factory=list)
    refusal: InferlaneError | None = None
    back: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.back.set()

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        self.writes.append([record.key for record in records])
        self.written.set()
        await self.back.wait()
        if self.refusal is not None:
            raise self.refusal
        return [None] * len(records)


class Count:
    def __init__(self) -> None:
        self.total = 0.0
        self._changed = asyncio.Event()

    def inc(self, amount: float = 1) -> None:
        self.total += amount
        self._changed.set()

    async def reaches(self, total: float) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.total < total:
                self._changed.clear()
                await self._changed.wait()


class Gathering:
    def __init__(self, **limits: float) -> None:
        self.clock, self.sender, self.sent, self.not_sent = FakeClock(), FakeSender(), Count(), Count()
        self.gatherer = CopyGatherer(
            self.sender,
            clock=self.clock,
            sent=self.sent,
            not_sent=self.not_sent,
            limits=GatherLimits(**{"rest_s": NEVER_S} | limits),  # type: ignore[arg-type]  # some are whole numbers
        )

    def add(self, *keys: bytes, lives_s: float = NEVER_S, value: bytes = b"{}") -> None:
        deadline_s = self.clock.now_s() + lives_s
        self.gatherer.add(
            [
                GatheredCopy.of(OutRecord("inferlane.iris.v2.bulk", key, value, []), deadline_s=deadline_s)
                for key in keys
            ]
        )

    async def written(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.sender.written.wait()
        self.sender.written.clear()


async def test_copies_of_several_batches_are_one_write_once_they_are_enough() -> None:
    gathering = Gathering(write_copies=3)
    gathering.add(b"1")
    gathering.add(b"2")
    assert gathering.sender.writes == []
    gathering.add(b"3")
    await gathering.written()
    assert gathering.sender.writes == [[b"1", b"2", b"3"]]
    await gathering.gatherer.close()
    assert (gathering.sent.total, gathering.not_sent.total) == (3, 0)


async def test_large_copies_are_written_by_their_bytes() -> None:
    gathering = Gathering(write_copies=1_000, write_bytes=10_000)
    gathering.add(b"1", value=b"x" * 6_000)
    gathering.add(b"2", value=b"x" * 6_000)
    await gathering.written()
    assert gathering.sender.writes == [[b"1", b"2"]]


async def test_a_copy_that_no_other_follows_is_written_after_its_rest() -> None:
    gathering = Gathering(rest_s=0.001)
    gathering.add(b"1")
    await gathering.written()
    gathering.add(b"2")
    await gathering.written()
    assert gathering.sender.writes == [[b"1"], [b"2"]]


async def test_the_rest_is_cut_short_for_the_copy_whose_deadline_is_nearest() -> None:
    """Guards `_rest_s` and the earlier timer: without either, nothing is written within the limit of the test."""
    gathering = Gathering()
    gathering.add(b"patient")
    gathering.add(b"hurried", lives_s=0.01)
    await gathering.written()
    assert gathering.sender.writes == [[b"patient", b"hurried"]]


async def test_a_copy_does_not_outlive_its_original() -> None:
    gathering = Gathering()
    gathering.add(b"late", lives_s=1_000)
    gathering.add(b"alive", lives_s=3_000)
    gathering.clock.advance(2_000)
    await gathering.gatherer.close()
    assert gathering.sender.writes == [[b"alive"]]
    assert (gathering.sent.total, gathering.not_sent.total) == (1, 1)


async def test_what_was_gathered_is_sent_at_a_drain() -> None:
    gathering = Gathering()
    gathering.add(b"1", b"2")
    await gathering.gatherer.close()
    assert gathering.sender.writes == [[b"1", b"2"]]
    assert gathering.sent.total == 2


async def test_copies_without_room_are_dropped_and_counted_and_there_is_room_again_after_a_write() -> None:
    gathering = Gathering(write_copies=2, held_copies=3)
    gathering.sender.back.clear()
    gathering.add(b"1", b"2", b"3", b"4", b"5")
    assert gathering.not_sent.total == 2
    gathering.sender.back.set()
    await gathering.sent.reaches(2)
    gathering.add(b"6")
    await gathering.gatherer.close()
    assert gathering.sender.writes == [[b"1", b"2"], [b"3", b"6"]]
    assert (gathering.sent.total, gathering.not_sent.total) == (4, 2)


async def test_the_bytes_of_all_copies_are_bounded_headers_included() -> None:
    gathering = Gathering(held_bytes=10_000)
    deadline_s = gathering.clock.now_s() + NEVER_S
    answer = [("ce_shadowanswer", b"x" * 6_000)]
    copy = GatheredCopy.of(OutRecord("inferlane.iris.v2.bulk", b"1", b"{}", answer), deadline_s=deadline_s)
    gathering.gatherer.add([copy, copy])
    assert gathering.not_sent.total == 1


async def test_copies_that_cannot_be_written_are_counted_and_take_no_room() -> None:
    gathering = Gathering(write_copies=1, held_copies=1)
    gathering.sender.refusal = UnavailableError("away")
    for number in range(3):
        gathering.add(b"%d" % number)
        await gathering.not_sent.reaches(number + 1)
    assert gathering.sender.writes == [[b"0"], [b"1"], [b"2"]]
    assert gathering.sent.total == 0
