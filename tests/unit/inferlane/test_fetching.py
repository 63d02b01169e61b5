"""A batch that cannot be read costs nothing but itself, whatever is wrong with it and wherever it lies."""

import hashlib
import inspect
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.kafka_record import is_unreadable, refuse_unreadable
from inferlane.errors import DecodeError
from inferlane.runtime.kafka import fetcher
from inferlane.runtime.kafka.assigned_positions import known_backlog, positions
from inferlane.runtime.kafka.fetcher import guard_fetches
from tests.support.fakes.batches import (
    ATTRIBUTES_AT,
    HEADER_BYTES,
    LAST_DELTA_AT,
    FetchingConsumer,
    batch,
    marker,
    seal,
)

ONE, TWO, THREE = (TopicPartition("topic", number) for number in range(3))
LIMIT = 1_000_000
GZIP, SNAPPY, LZ4, ZSTD = range(1, 5)
DENIED = 29


@pytest.fixture(autouse=True)
def guarded() -> None:
    guard_fetches(batch_limit_bytes=LIMIT)


def _broken(raw: bytearray) -> bytearray:
    raw[-1] ^= 1
    return raw


def _unknown_codec(raw: bytearray) -> bytearray:
    raw[ATTRIBUTES_AT + 1] |= 7
    return seal(raw)


def _not_compressed(raw: bytearray) -> bytearray:
    raw[ATTRIBUTES_AT + 1] |= LZ4
    return seal(raw)


def _cut(raw: bytearray) -> bytearray:
    return seal(raw[:-4])


def _unknown_format(raw: bytearray) -> bytearray:
    raw[16] = 9
    return raw


def _far_offset(raw: bytearray) -> bytearray:
    """Its only record says that it lies far behind the batch's end, which would move the position there."""
    raw[HEADER_BYTES + 3] = 0x7E
    return seal(raw)


BROKEN = {
    "crc": _broken(batch(b"bad", base=2)),
    "unknown codec": _unknown_codec(batch(b"bad", base=2)),
    "not compressed": _not_compressed(batch(b"bad", base=2)),
    "cut": _cut(batch(b"bad", base=2)),
    "unknown format": _unknown_format(batch(b"bad", base=2)),
    "offset behind its end": _far_offset(batch(b"bad", base=2)),
    "gzip bomb": batch(bytes(100 * LIMIT), base=2, codec=GZIP),
    "snappy bomb": batch(bytes(100 * LIMIT), base=2, codec=SNAPPY),
    "lz4 bomb": batch(bytes(100 * LIMIT), base=2, codec=LZ4),
    "zstd bomb": batch(bytes(100 * LIMIT), base=2, codec=ZSTD),
}


def said(records: list[ConsumerRecord]) -> list[bytes | None]:
    """The values, None in the place of a batch that could not be read."""
    return [None if is_unreadable(record.headers) else record.value for record in records]


async def drained(consumer: FetchingConsumer, **options: Any) -> dict[TopicPartition, list[bytes | None]]:
    """All that a fetch brought."""
    found: dict[TopicPartition, list[bytes | None]] = {}
    while some := await consumer.fetcher.fetched_records((), **options):
        for partition, records in some.items():
            found.setdefault(partition, []).extend(said(records))
    return found


async def test_what_was_returned_is_not_in_the_known_backlog() -> None:
    consumer = FetchingConsumer(ONE, TWO)
    assert known_backlog(consumer) == 0
    await consumer.bring({ONE: batch(b"0", b"1", b"2"), TWO: batch(b"0")})
    told = known_backlog(consumer)
    assert told > 0
    await consumer.fetcher.fetched_records((), max_records=2)
    assert known_backlog(consumer) == told - 2
    await drained(consumer)
    assert known_backlog(consumer) == told - 4


@pytest.mark.parametrize("bad", BROKEN.values(), ids=BROKEN)
async def test_neighbours_of_an_unreadable_batch_are_returned_once_and_it_is_passed(bad: bytearray) -> None:
    consumer = FetchingConsumer(ONE, TWO, THREE)
    good = batch(b"0", b"1")
    await consumer.bring({ONE: good, TWO: good + bad + batch(b"3", b"4", base=3), THREE: good})
    assert await drained(consumer) == {ONE: [b"0", b"1"], TWO: [b"0", b"1", None, b"3", b"4"], THREE: [b"0", b"1"]}
    assert positions(consumer) == {ONE: 2, TWO: 5, THREE: 2}


@pytest.mark.parametrize("bad", BROKEN.values(), ids=BROKEN)
async def test_the_record_in_its_place_says_where_it_lies_and_why(bad: bytearray) -> None:
    consumer = FetchingConsumer(ONE, position=2)
    await consumer.bring({ONE: bad})
    (record,) = (await consumer.fetcher.fetched_records(()))[ONE]
    assert (record.topic, record.partition, record.offset, record.value) == ("topic", 0, 2, bytes(bad))
    with pytest.raises(DecodeError, match="the batch with the offsets 2 to 2 of topic, partition 0, cannot be read: "):
        refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
    assert consumer.position(ONE) == 3


async def test_records_before_the_damage_in_the_same_batch_are_returned() -> None:
    raw = batch(b"0", b"1", b"2", b"3", b"4")
    where = raw.index(b"key\x022")
    raw[where - 1] = 0x7E
    consumer = FetchingConsumer(ONE)
    await consumer.bring({ONE: seal(raw) + batch(b"5", base=5)})
    records = (await consumer.fetcher.fetched_records(()))[ONE]
    assert said(records) == [b"0", b"1", None]
    assert records[-1].offset == 2
    assert dict(records[-1].headers)["inferlane-dead-letter-last-offset"] == b"4"
    assert said((await consumer.fetcher.fetched_records(()))[ONE]) == [b"5"]


async def test_a_damaged_batch_does_not_move_the_position_past_the_next_one() -> None:
    """Guards `Frame.offsets`: the end that a damaged batch names may be any."""
    raw = batch(b"0", b"1")
    raw[LAST_DELTA_AT : LAST_DELTA_AT + 4] = (1_000_000).to_bytes(4, "big")
    consumer = FetchingConsumer(ONE)
    await consumer.bring({ONE: raw + batch(b"2", base=2)})
    assert (await drained(consumer))[ONE][-1] == b"2"
    alone = FetchingConsumer(ONE)
    await alone.bring({ONE: raw})
    await drained(alone)
    assert alone.position(ONE) == 1


async def test_a_first_batch_that_is_not_whole_is_passed_and_a_later_one_is_left_to_the_next_fetch() -> None:
    consumer = FetchingConsumer(ONE)
    whole = batch(b"0", b"1")
    await consumer.bring({ONE: whole + batch(b"2", base=2)[:40]})
    assert await drained(consumer) == {ONE: [b"0", b"1"]}
    await consumer.bring({ONE: batch(b"2", base=2)[:40]})
    assert await drained(consumer) == {ONE: [None]}
    assert consumer.position(ONE) == 3


async def test_what_a_broker_refuses_of_one_partition_waits_for_what_others_brought() -> None:
    consumer = FetchingConsumer(ONE, TWO, THREE)
    good = batch(b"0")
    await consumer.bring({ONE: good, TWO: b"", THREE: good}, error_codes={TWO: DENIED})
    found = await consumer.fetcher.fetched_records(())
    assert {partition: said(records) for partition, records in found.items()} == {ONE: [b"0"], THREE: [b"0"]}
    with pytest.raises(TopicAuthorizationFailedError):
        await consumer.fetcher.fetched_records(())
    assert await consumer.fetcher.fetched_records(()) == {}


async def test_aborted_records_and_markers_are_passed_and_not_returned() -> None:
    consumer = FetchingConsumer(ONE)
    await consumer.bring(
        {
            ONE: batch(b"kept", producer=7)
            + batch(b"taken back", base=1, producer=8)
            + marker(base=2, producer=8, is_commit=False)
            + marker(base=3, producer=7, is_commit=True)
            + batch(b"after", base=4, producer=8)
            + marker(base=5, producer=8, is_commit=True)
        },
        aborted=[(8, 1)],
    )
    assert await drained(consumer) == {ONE: [b"kept", b"after"]}
    assert positions(consumer) == {ONE: 6}


async def test_a_call_returns_so_much_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the bound in bytes: a few compressed fetches hold more than memory does."""
    monkeypatch.setattr(fetcher, "_RETURNED_BYTES", 1_000)
    consumer = FetchingConsumer(ONE, TWO)
    raw = batch(*[bytes(400)] * 10, codec=GZIP)
    await consumer.bring({ONE: raw, TWO: raw})
    sizes = []
    while found := await consumer.fetcher.fetched_records(()):
        sizes.append([len(records) for records in found.values()])
    assert sum(map(sum, sizes)) == 20
    assert all(sum(size) <= 3 for size in sizes)


@given(
    garbage=st.binary(max_size=200),
    flips=st.lists(st.tuples(st.integers(8, 1_000), st.integers(1, 255)), max_size=4),
    is_sealed=st.booleans(),
    codec=st.integers(0, 4),
)
async def test_whatever_a_fetch_holds_it_does_not_raise_and_its_position_moves(
    garbage: bytes, flips: list[tuple[int, int]], is_sealed: bool, codec: int
) -> None:
    raw = batch(b"0", b"1" * 50, codec=codec)
    for where, how in flips:
        # The broker writes the first eight bytes itself; no checksum covers them.
        raw[max(8, where % len(raw))] ^= how
    if is_sealed:
        raw = seal(raw)
    consumer = FetchingConsumer(ONE, TWO)
    fetched = raw + garbage + batch(b"9", base=9)
    await consumer.bring({ONE: batch(b"0"), TWO: fetched})
    found = await drained(consumer)
    assert found[ONE] == [b"0"]
    assert consumer.position(TWO) > 0


def test_what_is_replaced_in_aiokafka_is_what_it_was() -> None:
    """When this fails, read what aiokafka changed in these, and change `inferlane.runtime.kafka.fetcher` with it."""
    replaced = {
        fetcher._Fetcher.__mro__[1].fetched_records: "be4348896b9b66af",
        fetcher._FetchResult.__mro__[1].getall: "3e717e30de5068d5",
        fetcher.LenientPartitionRecords.__mro__[1]._unpack_records: "b803e6d46480732c",
    }
    for function, digest in replaced.items():
        assert hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16] == digest, function.__qualname__
