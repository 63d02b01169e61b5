"""A batch that comes with its signal is returned as if it had been fetched: in order, once, or not at all."""

import asyncio
import random
import tempfile
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.structs import RecordMetadata
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka import handed_batches
from inferlane.runtime.kafka.arrivals import ArrivalListener, WrittenBatch
from inferlane.runtime.kafka.assigned_positions import known_backlog, positions
from inferlane.runtime.kafka.direct_producer import written_batch
from inferlane.runtime.kafka.fetcher import guard_fetches, rest_between_fetches, set_fetch_wait
from inferlane.runtime.kafka.handed_batches import HandedBatch
from inferlane.runtime.kafka.record_writer import make_builder
from inferlane.runtime.kafka.recreated_topics import start_over_past_end
from tests.support.fakes.batches import HEADER_BYTES, FetchingConsumer, batch, marker
from tests.support.fakes.handing import ReadingConsumer

ONE, TWO = (TopicPartition("topic", number) for number in range(2))
# Far longer than anything here takes, and shorter than a rest that is not ended.
SOON_S, LONG_S = 60.0, 120.0
MANY = 20


@pytest.fixture(autouse=True)
def guarded() -> None:
    guard_fetches(batch_limit_bytes=1_000_000)


def hand(consumer: FetchingConsumer, raw: bytes, partition: TopicPartition = ONE) -> bool:
    taken: bool = consumer.fetcher.take(partition.topic, partition.partition, bytes(raw))
    return taken


def listening(consumer: FetchingConsumer, folder: str, *, wakes_fetches: bool) -> ArrivalListener:
    """What tells the consumer, which rests as beside a broker that wakes fetches or does not."""
    listener = ArrivalListener(Path(folder), "topic")
    rest_between_fetches(consumer.as_consumer(), listener, wakes_fetches=wakes_fetches)
    return listener


async def nothing() -> None:
    """What happens during a fetch without news."""


async def returned(consumer: FetchingConsumer, *, max_records: int | None = None) -> list[bytes]:
    """The values of the next call."""
    found = await consumer.fetcher.fetched_records((), max_records=max_records)
    return [record.value for records in found.values() for record in records]


async def test_a_batch_at_the_position_is_returned_without_a_fetch() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0", b"1"))
    assert known_backlog(consumer) == 2
    assert await returned(consumer) == [b"0", b"1"]
    assert positions(consumer) == {ONE: 2}
    assert known_backlog(consumer) == 0
    assert await returned(consumer) == []


async def test_batches_that_follow_wait_until_those_before_are_taken() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0", b"1"))
    assert await returned(consumer, max_records=1) == [b"0"]
    assert hand(consumer, batch(b"2", base=2))
    assert hand(consumer, batch(b"3", base=3))
    assert known_backlog(consumer) == 3
    assert await returned(consumer) == [b"1"]
    assert await returned(consumer) == [b"2", b"3"]


async def test_after_a_gap_the_broker_is_asked_and_its_answer_is_returned_once() -> None:
    consumer = FetchingConsumer(ONE)
    assert not hand(consumer, batch(b"1", base=1))
    # So that the partition is fetched also if another one is fetched first.
    assert known_backlog(consumer) == 2
    assert await returned(consumer) == []
    await consumer.bring({ONE: batch(b"0") + batch(b"1", base=1)})
    assert await returned(consumer) == [b"0", b"1"]
    # What was handed late was fetched already.
    assert hand(consumer, batch(b"1", base=1))
    assert await returned(consumer) == []
    assert hand(consumer, batch(b"2", base=2))
    assert await returned(consumer) == [b"2"]


async def test_a_gap_behind_what_waits_drops_what_waits() -> None:
    """Or the consumer would go on from what waits, and never see what lies in the gap."""
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0"))
    assert hand(consumer, batch(b"1", base=1))
    assert not hand(consumer, batch(b"3", base=3))
    assert await returned(consumer) == [b"0"]
    assert await returned(consumer) == []
    assert positions(consumer) == {ONE: 1}


async def test_a_fetch_that_was_under_way_brings_nothing_twice() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0"))
    assert hand(consumer, batch(b"1", base=1))
    await consumer.bring({ONE: batch(b"0") + batch(b"1", base=1) + batch(b"2", base=2)})
    assert await returned(consumer) == [b"0", b"1", b"2"]
    assert await returned(consumer) == []
    assert positions(consumer) == {ONE: 3}


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = batch(b"0" * 100)
    monkeypatch.setattr(handed_batches, "_MOST_WAITING_BYTES", 2 * len(raw))
    consumer = FetchingConsumer(ONE, TWO)
    assert hand(consumer, batch(b"read now"))
    assert hand(consumer, batch(b"1" * 100, base=1))
    assert hand(consumer, batch(b"2" * 100, base=2))
    assert not hand(consumer, batch(b"3" * 100, base=3))
    # The room is there again.
    assert hand(consumer, batch(b"0" * 100), TWO)


async def test_a_partition_of_another_consumer_costs_this_one_nothing() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0"), TWO)
    assert await returned(consumer) == []


async def test_what_was_handed_before_the_partitions_were_assigned_anew_is_forgotten() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0"))
    assert hand(consumer, batch(b"1", base=1))
    consumer.assign(ONE, position=0)
    assert await returned(consumer) == []
    assert not hand(consumer, batch(b"1", base=1))
    assert hand(consumer, batch(b"0"))
    assert await returned(consumer) == [b"0"]


async def test_after_a_seek_the_records_from_there_on_are_returned() -> None:
    consumer = FetchingConsumer(ONE)
    assert hand(consumer, batch(b"0", b"1"))
    assert hand(consumer, batch(b"2", base=2))
    consumer.seek(ONE, 1)
    assert await returned(consumer) == []
    await consumer.bring({ONE: batch(b"0", b"1") + batch(b"2", base=2)})
    assert await returned(consumer) == [b"1", b"2"]


@pytest.mark.parametrize("values", [(b"new 0",), (b"new 0", b"new 1", b"new 2")], ids=["before us", "around us"])
async def test_the_first_batch_of_a_topic_that_was_created_again_lets_it_start_over(values: tuple[bytes, ...]) -> None:
    """Or the consumer would take its records for old ones up to its position, and go on there."""
    consumer = FetchingConsumer(ONE, TWO, position=2)
    assert not hand(consumer, batch(*values))
    assert consumer.assignment.state_value(ONE).reset_strategy == OffsetResetStrategy.EARLIEST
    # Also what follows is fetched, or the consumer would go on in the middle.
    assert not hand(consumer, batch(b"next", base=len(values)))
    await consumer.bring({TWO: batch(b"of another", base=2)})
    assert await returned(consumer) == [b"of another"]
    consumer.seek(ONE, 0)
    await consumer.bring({ONE: batch(*values)})
    assert await returned(consumer) == list(values)
    assert hand(consumer, batch(b"next", base=len(values)))


async def test_the_first_batch_that_a_fetch_brought_before_is_not_read_again() -> None:
    """Guards `has_read_first`: its signal comes when the fetch has returned it."""
    consumer = FetchingConsumer(ONE)
    await consumer.bring({ONE: batch(b"0", b"1")})
    assert await returned(consumer) == [b"0", b"1"]
    assert hand(consumer, batch(b"0", b"1"))
    assert hand(consumer, batch(b"2", base=2))
    assert await returned(consumer) == [b"2"]


@pytest.mark.parametrize("is_handed", [True, False], ids=["handed", "fetched"])
async def test_a_batch_around_the_end_of_what_was_read_whole_is_of_another_log(*, is_handed: bool) -> None:
    """Guards `KnownLogs.is_other`: its records before our position were lost, and all was green."""
    consumer = FetchingConsumer(ONE, position=2)
    await consumer.bring({ONE: batch(b"old 2", base=2)})
    assert await returned(consumer) == [b"old 2"]
    around = batch(b"new 1", b"new 2", b"new 3", base=1)
    if is_handed:
        assert hand(consumer, around)
    else:
        await consumer.bring({ONE: around})
    assert await returned(consumer) == []
    assert consumer.assignment.state_value(ONE).reset_strategy == OffsetResetStrategy.EARLIEST


async def test_a_batch_whose_offset_is_damaged_lets_a_partition_start_over_once() -> None:
    """Guards `_taken_for_other`: the partition was read from its first record again and again."""
    consumer = FetchingConsumer(ONE)
    damaged = batch(b"1", b"2", b"3", base=1)
    outcomes = []
    for _ in range(3):
        consumer.seek(ONE, 0)
        await consumer.bring({ONE: batch(b"0", b"1")})
        assert await returned(consumer) == [b"0", b"1"]
        await consumer.bring({ONE: damaged})
        outcomes.append(await returned(consumer))
    assert outcomes == [[], [b"2", b"3"], [b"2", b"3"]]


async def test_where_a_partition_was_read_to_counts_for_the_next_result_alone() -> None:
    """Guards `pop` in `is_other`: a part that was read of a batch may end where a batch of long ago ended."""
    consumer = FetchingConsumer(ONE, position=2)
    await consumer.bring({ONE: batch(b"old 2", base=2)})
    assert await returned(consumer) == [b"old 2"]
    consumer.seek(ONE, 1)
    around = batch(b"1", b"2", b"3", base=1)
    await consumer.bring({ONE: around})
    assert await returned(consumer, max_records=2) == [b"1", b"2"]
    consumer.fetcher._records.clear()
    await consumer.bring({ONE: around})
    assert await returned(consumer) == [b"3"]


async def test_a_batch_of_which_a_part_was_read_goes_on_where_it_was_left() -> None:
    """The same bytes as above, but the batch before was not read to its end: a commit or a seek led here."""
    consumer = FetchingConsumer(ONE, position=2)
    await consumer.bring({ONE: batch(b"1", b"2", b"3", base=1)})
    assert await returned(consumer) == [b"2", b"3"]
    consumer.seek(ONE, 3)
    await consumer.bring({ONE: batch(b"1", b"2", b"3", base=1)})
    assert await returned(consumer) == [b"3"]


async def test_what_was_handed_while_the_position_was_lost_is_read_from_the_broker() -> None:
    """Or every call would fail, and aiokafka would never look for the position."""
    consumer = FetchingConsumer(ONE, TWO)

    async def lost() -> None:
        assert hand(consumer, batch(b"0"))
        consumer.assignment.state_value(ONE).await_reset(OffsetResetStrategy.EARLIEST)

    await consumer.bring_nothing(ONE, meanwhile=lost)
    assert hand(consumer, batch(b"of another"), TWO)
    assert await returned(consumer) == [b"of another"]
    consumer.seek(ONE, 0)
    await consumer.bring({ONE: batch(b"0")})
    assert await returned(consumer) == [b"0"]


async def test_what_was_handed_while_a_topic_was_found_to_be_created_again_is_read_from_the_broker() -> None:
    consumer = FetchingConsumer(ONE, position=5)

    async def ends(_: list[TopicPartition], _within_ms: int) -> dict[TopicPartition, int]:
        # Told before the batch was written that is handed here.
        assert hand(consumer, batch(b"5", base=5))
        consumer.assignment.state_value(ONE).lso = 2
        return {ONE: 2}

    consumer.fetcher.end_offsets = ends
    consumer.assignment.state_value(ONE).lso = 2
    await start_over_past_end(consumer.fetcher, consumer.assignment, consumer.request(ONE))
    assert await returned(consumer) == []
    consumer.seek(ONE, 0)
    await consumer.bring({ONE: batch(b"0")})
    assert await returned(consumer) == [b"0"]


async def test_a_fetch_without_a_partition_that_holds_records_does_not_wait_for_long() -> None:
    """Meanwhile that partition is not asked for, whoever writes to it."""
    with tempfile.TemporaryDirectory() as name:
        consumer = FetchingConsumer(ONE, TWO)
        listening(consumer, name, wakes_fetches=True)
        request = await consumer.bring_nothing(TWO, meanwhile=nothing)
        assert request._max_wait_ms == 500
        assert hand(consumer, batch(b"0"))
        request = await consumer.bring_nothing(TWO, meanwhile=nothing)
        assert request._max_wait_ms == consumer.fetcher.rest_s * 1000


async def test_a_fetch_that_brought_no_record_holds_up_nothing_that_was_handed() -> None:
    consumer = FetchingConsumer(ONE)
    await consumer.bring({ONE: marker(base=0, producer=7, is_commit=True)})
    assert hand(consumer, batch(b"1", base=1))
    assert await returned(consumer) == [b"1"]


async def test_a_fetch_that_was_overtaken_does_not_make_the_next_ones_wait_longer() -> None:
    """It looks as if the broker had given nothing of what it has, for which a fetch waits up to a second."""
    with tempfile.TemporaryDirectory() as name:
        consumer = FetchingConsumer(ONE)
        listener = listening(consumer, name, wakes_fetches=False)

        async def overtaken() -> None:
            assert hand(consumer, batch(b"%d" % consumer.position(ONE), base=consumer.position(ONE)))
            await returned(consumer)

        consumer.fetcher._fetch_max_wait_ms = 4
        for _ in range(5):
            listener.wake()
            await consumer.bring_nothing(ONE, meanwhile=overtaken)
        assert consumer.fetcher._fetch_max_wait_ms == 4


async def test_a_rest_that_began_in_a_pause_ends_when_there_is_work() -> None:
    """What is handed ends no rest, and records of producers without signals may have come during a long one."""
    with tempfile.TemporaryDirectory() as name:
        consumer = FetchingConsumer(ONE)
        listener = listening(consumer, name, wakes_fetches=False)
        set_fetch_wait(consumer.as_consumer(), 2_000)
        resting = asyncio.create_task(listener.wait(LONG_S))
        await asyncio.sleep(0)
        set_fetch_wait(consumer.as_consumer(), 50)
        async with asyncio.timeout(SOON_S):
            await resting
        # A wait that is no shorter ends nothing.
        listener.forget()
        set_fetch_wait(consumer.as_consumer(), 50)
        resting = asyncio.create_task(listener.wait(LONG_S))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not resting.done()
        resting.cancel()


async def test_beside_a_broker_that_wakes_a_fetch_there_is_a_rest_only_after_what_was_handed() -> None:
    with tempfile.TemporaryDirectory() as name:
        consumer = FetchingConsumer(ONE)
        listener = listening(consumer, name, wakes_fetches=True)
        rests: list[float] = []

        async def noted(wait_s: float) -> None:
            rests.append(wait_s)

        listener.wait = noted  # type: ignore[method-assign]
        await consumer.bring_nothing(ONE, meanwhile=nothing)
        await consumer.bring_nothing(ONE, meanwhile=nothing)
        assert rests == []
        assert hand(consumer, batch(b"0"))
        assert await returned(consumer) == [b"0"]
        await consumer.bring_nothing(ONE, meanwhile=nothing)
        await consumer.bring_nothing(ONE, meanwhile=nothing)
        assert rests == [consumer.fetcher.rest_s]
        # The waits at the broker are those of the lane, whatever a fetch found.
        set_fetch_wait(consumer.as_consumer(), 400)
        await consumer.bring_nothing(ONE, meanwhile=nothing)
        assert consumer.fetcher._fetch_max_wait_ms == 400


async def test_a_partition_that_is_always_handed_more_does_not_keep_others_from_being_fetched() -> None:
    consumer = ReadingConsumer(ONE, TWO)
    found: dict[TopicPartition, list[bytes]] = {ONE: [], TWO: []}
    is_busy = asyncio.Event()

    async def hand_for_ever() -> None:
        while True:
            consumer.hand(ONE, b"handed")
            await asyncio.sleep(0.001)

    async def read_for_ever() -> None:
        while not found[TWO]:
            for partition, records in (await consumer.fetcher.fetched_records((), timeout=1)).items():
                found[partition] += [record.value for record in records]
            if len(found[ONE]) > MANY:
                is_busy.set()
            # Work on what was returned, meanwhile more is handed.
            await asyncio.sleep(0.005)

    handing = asyncio.create_task(hand_for_ever())
    reading = asyncio.create_task(read_for_ever())
    try:
        await is_busy.wait()
        consumer.tell(TWO, b"told")
        async with asyncio.timeout(LONG_S):
            await reading
    finally:
        handing.cancel()
        await consumer.fetcher.close()
    assert found[TWO] == [b"told"]


async def test_a_batch_that_the_broker_had_already_is_not_handed_on() -> None:
    """The broker does not say where it lies, so aiokafka says -1."""
    builder = make_builder(1_000)
    assert builder.append(key=b"k", value=b"v", timestamp=0) is not None
    written = RecordMetadata("topic", 1, ONE, 7, None, None, None)
    assert written_batch(builder, written) == WrittenBatch(1, 7, builder._build())
    assert written_batch(builder, written._replace(offset=-1)) is None
    # The broker stores its own time in it.
    assert written_batch(builder, written._replace(timestamp_type=1)) is None


async def test_a_request_that_was_made_before_a_batch_was_handed_is_outdated() -> None:
    consumer = FetchingConsumer(ONE, TWO)
    request = consumer.request(ONE, TWO)
    assert not consumer.fetcher.is_outdated(consumer.assignment, request)
    assert hand(consumer, batch(b"0"), TWO)
    assert consumer.fetcher.is_outdated(consumer.assignment, request)
    assert await returned(consumer) == [b"0"]
    assert consumer.fetcher.is_outdated(consumer.assignment, request)
    assert not consumer.fetcher.is_outdated(consumer.assignment, consumer.request(ONE, TWO))


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(batch(b"0"))[:-1], bytes(batch(b"0")) + b"0", bytes(HEADER_BYTES), bytes(batch(b"0"))[:20]],
    ids=["nothing", "cut", "more than one", "zeros", "a part of the header"],
)
async def test_what_is_no_whole_batch_is_not_taken(raw: bytes) -> None:
    assert HandedBatch.of(raw) is None
    assert not FetchingConsumer(ONE).fetcher.take("topic", 0, raw)


class _Traffic:
    """A partition that two producers write to, whose signals come late, out of order or never, and its consumer."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.consumer = FetchingConsumer(ONE)
        self.stored: list[bytes] = []
        self.signals: list[bytes] = []
        self.end = 0
        self.found: list[bytes] = []

    async def write(self) -> None:
        count = self.chance.randint(1, 3)
        raw = bytes(batch(*(b"%d" % (self.end + at) for at in range(count)), base=self.end))
        self.end += count
        self.stored.append(raw)
        if self.chance.random() < 0.9:
            self.signals.append(raw)

    async def hand(self) -> None:
        if self.signals:
            hand(self.consumer, self.signals.pop(0))

    async def hand_late(self) -> None:
        if self.signals:
            hand(self.consumer, self.signals.pop(self.chance.randrange(len(self.signals))))

    async def fetch(self) -> None:
        if self.consumer.position(ONE) < self.end:
            await self.consumer.bring({ONE: b"".join(self.stored)})

    async def read(self) -> None:
        self.found += await returned(self.consumer, max_records=self.chance.choice([1, 2, None]))

    async def read_all(self) -> None:
        while more := await returned(self.consumer):
            self.found += more


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 60))
async def test_whatever_is_handed_fetched_or_lost_every_record_is_returned_once_and_in_order(
    seed: int, steps: int
) -> None:
    guard_fetches(batch_limit_bytes=1_000_000)
    traffic = _Traffic(random.Random(seed))
    for _ in range(steps):
        step = traffic.chance.choice(["write", "write", "hand", "hand", "hand_late", "fetch", "read"])
        await getattr(traffic, step)()
    await traffic.read_all()
    await traffic.fetch()
    await traffic.read_all()
    assert traffic.found == [b"%d" % number for number in range(traffic.end)]
