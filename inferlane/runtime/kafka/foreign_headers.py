r"""Reading records whose header names are not UTF-8.

Kafka's own clients and brokers take any bytes as the name of a header. aiokafka raises on such a record. Here such a
name is read with each odd byte as `\xNN`, so that the record is served, answered or made a dead letter like any other.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, SupportsIndex

import structlog
from aiokafka.record.default_records import _DefaultRecordBatchPy

log = structlog.get_logger(__name__)


class LenientBatch:
    """A batch that is read anew, leniently, from the first record on that aiokafka cannot decode."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """The next record of a control batch, which aiokafka does not iterate."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        decoded = 0
        try:
            for record in self._batch:
                yield record
                decoded += 1
        except UnicodeDecodeError as error:
            log.warning("header_name_not_utf8", base_offset=self._batch.base_offset, name=repr(error.object))
            yield from islice(_PythonBatch(self._raw), decoded, None)


class _PythonBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's batch in Python, which decodes nothing as text but the names of headers."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _LenientBytes(self._buffer)


class _LenientBytes(bytearray):
    """Bytes that decode to text whatever they are."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode, with what no text can be as escapes."""
        return super().decode(encoding, errors)
