"""Records with header names that are no text: read like any other, in their places, whatever surrounds them."""

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka.fetcher import guard_fetches
from tests.support.fakes.foreign import OddName, python_builder

NONE, GZIP = 0, 1
names = st.lists(st.binary(min_size=1, max_size=8), max_size=3)


def fetched(batches: list[list[list[bytes]]], *, compression: int = NONE) -> bytes:
    """The bytes of a fetch: for each batch, for each of its records, the names of its headers."""
    raw = b""
    offset = 0
    for batch in batches:
        builder = python_builder(compression=compression)
        for number, header_names in enumerate(batch):
            headers = [(OddName(name), b"value") for name in header_names]
            builder.append(number, 1000, b"key", b"%d" % (offset + number), headers=headers)
        built = bytearray(builder.build())
        built[:8] = offset.to_bytes(8, "big")
        raw += bytes(built)
        offset += len(batch)
    return raw


def read(raw: bytes, *, from_offset: int = 0) -> list[ConsumerRecord]:
    """As aiokafka's fetcher does."""
    guard_fetches(batch_limit_bytes=1 << 20)
    records = fetcher.MemoryRecords(raw)
    partition = TopicPartition("topic", 0)
    return list(fetcher.PartitionRecords(partition, records, [], from_offset, None, None, True, READ_UNCOMMITTED))


@pytest.mark.parametrize("compression", [NONE, GZIP])
def test_an_odd_name_harms_neither_its_record_nor_its_neighbours(compression: int) -> None:
    found = read(fetched([[[b"a"], [b"a"]], [[b"b"], [b"\xff\xfe", b"b"], [b"b"]], [[b"c"]]], compression=compression))
    assert [record.offset for record in found] == [0, 1, 2, 3, 4, 5]
    assert [record.value for record in found] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert found[3].headers == (("\\xff\\xfe", b"value"), ("b", b"value"))
    assert found[4].headers == (("b", b"value"),)


def test_reading_on_behind_an_odd_name_in_the_same_batch() -> None:
    raw = fetched([[[b"\xff"], [b"a"], [b"a"]]])
    assert [record.offset for record in read(raw, from_offset=2)] == [2]


@given(batches=st.lists(st.lists(names, min_size=1, max_size=4), min_size=1, max_size=4), is_compressed=st.booleans())
def test_every_record_is_read_once_whatever_its_headers_are_called(
    batches: list[list[list[bytes]]], is_compressed: bool
) -> None:
    found = read(fetched(batches, compression=GZIP if is_compressed else NONE))
    flat = [header_names for batch in batches for header_names in batch]
    assert [record.offset for record in found] == list(range(len(flat)))
    decoded = [tuple(name.decode(errors="backslashreplace") for name in header_names) for header_names in flat]
    assert [tuple(name for name, _ in record.headers) for record in found] == decoded
