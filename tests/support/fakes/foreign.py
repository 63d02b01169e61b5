"""Batches with header names that aiokafka refuses to write."""

from typing import Self

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy


class OddName(str):
    """A header name that goes to the wire as other bytes than its characters."""

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> Self:
        name = super().__new__(cls, raw.decode(errors="backslashreplace"))
        name.raw = raw
        return name

    def encode(self, *_: object) -> bytes:
        return self.raw


def python_builder(*, compression: int = 0) -> _DefaultRecordBatchBuilderPy:
    """aiokafka's batch builder in Python, which takes an `OddName`; the one in C does not."""
    return _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
