"""Records whose header names are not UTF-8: any producer may write them, and aiokafka stops at the first.

Its parser raises in the middle of a batch, so not even the records after such a one can be reached: whoever may produce
one record could stop a lane for ever. Nothing of ours has such a name, so it is kept escaped, and the record is served.
"""

from typing import Any

import aiokafka.consumer.fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def accept_foreign_names() -> None:
    """From the next fetch on, read every record in this process. Costs a batch a few microseconds, so only then."""
    # aiokafka has no setting or hook for the parser; this is the one name that it looks up for each fetch.
    aiokafka.consumer.fetcher.MemoryRecords = _TolerantRecords


class _TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    def next_batch(self) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        return batch if batch is None else _TolerantBatch(batch, raw)


class _TolerantBatch:
    """A batch of aiokafka's fast parser; read again by its slow one when the fast one cannot."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Any:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            batch = iter(_DefaultRecordBatchPy(self._raw))
            batch._buffer = _Buffer(batch._buffer)  # noqa: SLF001 - where its parser slices names from
            return batch


class _Buffer(bytearray):
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Name(found) if isinstance(index, slice) else found


class _Name(bytearray):
    def decode(self, encoding: str = "utf-8", _errors: str = "") -> str:
        """Decode, and escape what is no text."""
        return super().decode(encoding, "backslashreplace")
