"""Header names that are not UTF-8: one such record must not hide those around it."""

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from inferlane.kafka.foreign_names import _TolerantRecords

VALUES = [b"before", b"foreign", b"after"]


class ForeignName(str):
    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"x\xff"


def foreign_batch() -> bytes:
    builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, -1, 10_000)
    for offset, value in enumerate(VALUES):
        headers = [(ForeignName(), b"1"), ("ce_id", b"r"), ("empty", None)] if value == b"foreign" else []
        builder.append(offset, 1_700_000_000_000, None, value, headers)
    return bytes(builder.build())


def test_every_record_of_the_batch_is_read_and_the_name_is_escaped() -> None:
    """Guards the `except UnicodeDecodeError` of `_TolerantBatch.__iter__`; fails when it is taken out."""
    records = _TolerantRecords(foreign_batch() * 2)
    for _ in range(2):
        batch = records.next_batch()
        assert batch.validate_crc()
        read = list(batch)
        assert [record.value for record in read] == VALUES
        assert [record.offset for record in read] == [0, 1, 2]
        assert read[1].headers == [("x\\xff", b"1"), ("ce_id", b"r"), ("empty", None)]
    assert not records.has_next()
    assert records.next_batch() is None


def test_aiokafka_itself_still_stops_at_such_a_record() -> None:
    """When this fails, `inferlane.kafka.foreign_names` is not needed any more."""
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(foreign_batch()).next_batch())
