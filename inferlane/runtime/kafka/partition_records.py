"""The records of one partition in one fetch; what stands for a batch that cannot be read is one of them."""

import time
from collections.abc import Iterator
from typing import Any

import structlog
from aiokafka import ConsumerRecord
from aiokafka.consumer import fetcher

from inferlane.contracts.kafka_record import unreadable_headers
from inferlane.errors import DecodeError, clipped
from inferlane.runtime.kafka.batch_decoder import Frame

log = structlog.get_logger(__name__)

_REASON_CHARS = 500
_YEAR_3000_MS = 32_503_680_000_000


class LenientPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """The records of one partition in one fetch, in their order; a batch that cannot be read is one of them.

    `next_fetch_offset` is past what was yielded, and past what is skipped because nobody should see it: markers of
    transactions, and records of aborted ones. `read_to` is the end of the last batch that was read whole.
    """

    next_fetch_offset: int
    read_to: int | None = None

    @property
    def raw(self) -> memoryview:
        """The bytes of the fetch."""
        raw: memoryview = self._records.raw
        return raw

    def _unpack_records(self) -> Iterator[ConsumerRecord]:
        while self._records.has_next():
            frame: Frame = self._records.next_batch()
            try:
                yield from self._read(frame)
            except Exception as error:  # noqa: BLE001 - whatever the bytes of a stranger make a decoder raise
                reason = str(error) if isinstance(error, DecodeError) else f"{type(error).__name__}: {error}"
                yield self._stand_in(frame, clipped(reason, limit_chars=_REASON_CHARS))

    def _read(self, frame: Frame) -> Iterator[ConsumerRecord]:
        batch = frame.open(check_crc=self._check_crcs)
        # A marker may be the last record of a partition, and is passed like any other.
        for record in () if self._is_aborted(batch) or batch.is_control_batch else batch:
            if record.offset < self.next_fetch_offset:
                # The batch begins before the position.
                continue
            if record.offset >= batch.next_offset:
                raise DecodeError(f"offset {record.offset} in a batch that ends before {batch.next_offset}")
            found = self._consumer_record(self._tp, record)
            self.next_fetch_offset = record.offset + 1
            yield found
        # Compaction may have taken the last records of a batch away.
        self.read_to = self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _is_aborted(self, batch: Any) -> bool:
        """Whether the batch belongs to a transaction that was aborted; notes where each of them begins and ends."""
        if self._isolation_level != fetcher.READ_COMMITTED or batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return batch.is_transactional and batch.producer_id in self._aborted_producers

    def _stand_in(self, frame: Frame, reason: str) -> ConsumerRecord:
        """Return the record that takes the place of what could not be read of a batch."""
        first, last = frame.offsets(self.next_fetch_offset)
        self.next_fetch_offset = last + 1
        log.error(
            "batch_unreadable",
            topic=self._tp.topic,
            partition=self._tp.partition,
            first_offset=first,
            last_offset=last,
            reason=reason,
        )
        value = bytes(frame.raw)
        stamped_ms = frame.first_timestamp_ms
        return ConsumerRecord(
            topic=self._tp.topic,
            partition=self._tp.partition,
            offset=first,
            timestamp=stamped_ms if 0 < stamped_ms < _YEAR_3000_MS else int(time.time() * 1000),
            timestamp_type=0,
            key=None,
            value=value,
            checksum=None,
            serialized_key_size=-1,
            serialized_value_size=len(value),
            headers=unreadable_headers(reason, last_offset=last),
        )
