"""Which batches are compressed, and with what."""

import random
from collections.abc import Sequence

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from inferlane.contracts.kafka_record import OutRecord
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import batch_limit_bytes
from inferlane.runtime.kafka.record_writer import CODECS, make_builder, one_small_batch
from tests.support.fakes.batches import HEADER_BYTES

_HEADERS = [("ce_specversion", b"1.0"), ("ce_type", b"inferlane.request"), ("content-type", b"application/json")]


def requests(count: int, *, value_bytes: int = 40, max_run: int = 64) -> list[OutRecord]:
    values = random.Random(0)
    return [
        OutRecord("topic", b"%d" % number, values.randbytes(value_bytes), _HEADERS, max_run=max_run)
        for number in range(count)
    ]


def built(records: Sequence[OutRecord], codec: int = CODECS["zstd"]) -> bytes:
    batch = one_small_batch(records, range(len(records)), lambda: make_builder(2**20), codec=codec)
    assert batch is not None
    assert batch.numbers == list(range(len(records)))
    return bytes(batch.builder._build())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_small_requests_that_go_together_are_compressed(codec: int) -> None:
    records = requests(24)
    raw = built(records, codec)
    batch = DefaultRecordBatch(raw)
    assert batch.compression_type == codec
    assert [(found.key, found.value, list(found.headers)) for found in batch] == [
        (record.key, record.value, record.headers) for record in records
    ]
    plain_bytes = len(built(records, CODECS["none"]))
    assert len(raw) == plain_bytes if codec == CODECS["none"] else len(raw) < plain_bytes * 0.7


@pytest.mark.parametrize(
    "records",
    [requests(3), requests(24, value_bytes=1025), requests(24, max_run=0)],
    ids=["few", "large", "read by clients"],
)
def test_others_are_not(records: list[OutRecord]) -> None:
    assert DefaultRecordBatch(built(records)).compression_type == CODECS["none"]


def test_no_batch_is_larger_than_what_the_smallest_limits_let_a_consumer_decompress() -> None:
    """Guards the limit of the compressed batch: the records of a larger one would become a dead letter."""
    smallest = load_settings(max_body_bytes=1024, max_result_bytes=1024).kafka
    raws = [built(requests(count, value_bytes=1)) for count in (500, 1_000, 4_000)]
    kinds = {DefaultRecordBatch(raw).compression_type for raw in raws}
    assert kinds == {CODECS["none"], CODECS["zstd"]}
    for raw in raws:
        batch = DefaultRecordBatch(raw)
        if batch.compression_type:
            assert len(cramjam.zstd.decompress(raw[HEADER_BYTES:])) <= batch_limit_bytes(smallest)


def test_large_requests_are_no_small_batch() -> None:
    records = requests(3, value_bytes=128 * 1024)
    assert one_small_batch(records, range(3), lambda: make_builder(2**20), codec=CODECS["zstd"]) is None
