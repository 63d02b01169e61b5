"""Records on their way out: how large they are, and the batches in which a partition gets them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from inferlane.errors import PayloadTooLargeError
from inferlane.record import Headers

# Not compressed: tensors are noise to a compressor, and the size of a batch is known before it is sent.
_NO_COMPRESSION = 0


class OutRecord(msgspec.Struct, frozen=True):
    """A record on its way out; `timestamp_ms` None means now.

    With `together` it goes to any partition, in the company of so many at most; without, all of a key go to the same,
    in their order.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    timestamp_ms: int | None = None
    together: int = 0


# The frame of a record in its batch, and of each header, at their largest.
_RECORD_FRAME_BYTES = 128
_HEADER_FRAME_BYTES = 16


def headers_bytes(headers: Headers) -> int:
    """What these headers take in a record, frames included, at most."""
    return sum(_name_bytes(name) + len(value or b"") + _HEADER_FRAME_BYTES for name, value in headers)


def _name_bytes(name: str) -> int:
    # Asked of each header of each record: encoding the name would cost more than all the rest.
    return len(name) if name.isascii() else len(name.encode(errors="replace"))


def check_size(record: OutRecord, limit_bytes: int) -> int:
    """Refuse what the broker would, else return the record's size at most, in bytes.

    After the broker's own refusal an idempotent producer has lost its sequence.

    Raises:
        PayloadTooLargeError: the record with its key and headers is over the limit.
    """
    size_bytes = len(record.value) + len(record.key) + _RECORD_FRAME_BYTES + headers_bytes(record.headers)
    if size_bytes > limit_bytes:
        raise PayloadTooLargeError(
            f"a record for {record.topic} has {size_bytes} bytes with its headers, the limit is {limit_bytes}; "
            "send fewer rows a request, or raise INFERLANE_MAX_BODY_BYTES and the topics' max.message.bytes",
            limit_bytes=limit_bytes,
        )
    return size_bytes


def over_topic_limit(topic: str, size_bytes: int, limit_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"a record of {size_bytes} bytes is over what {topic} takes, {limit_bytes} bytes; send fewer rows a request, "
        "or raise max.message.bytes of the topic",
        limit_bytes=limit_bytes,
    )


class OutBatch(msgspec.Struct, frozen=True):
    """A batch, and the numbers of the records that it holds."""

    builder: BatchBuilder
    numbers: list[int]


def make_builder(limit_bytes: int) -> BatchBuilder:
    """An empty batch that takes records up to the limit, and one of any size if it is the first."""
    return BatchBuilder(
        limit_bytes, _NO_COMPRESSION, is_transactional=False, key_serializer=None, value_serializer=None
    )


def cut_into_batches(
    records: Sequence[OutRecord], numbers: Iterable[int], make: Callable[[], BatchBuilder], *, alone: bool = False
) -> Iterator[OutBatch]:
    """The records of these numbers, in order, in as few batches as `make` allows, or each `alone`."""
    batch: OutBatch | None = None
    for number in numbers:
        record = records[number]
        if batch is not None and not alone and _append(batch.builder, record):
            batch.numbers.append(number)
            continue
        if batch is not None:
            yield batch
        batch = OutBatch(make(), [number])
        _append(batch.builder, record)
    if batch is not None:
        yield batch


def drop_batches(producer: AIOKafkaProducer, topic: str) -> None:
    """Let the producer forget what it holds for a topic that is gone.

    aiokafka would ask for that topic's leader, again and again without a pause, until the batches are too old.
    """
    accumulator = producer._message_accumulator  # noqa: SLF001 - it has no method for this
    for partition in [partition for partition in accumulator._batches if partition.topic == topic]:  # noqa: SLF001 - as above
        for batch in accumulator._batches.pop(partition):  # noqa: SLF001 - as above
            if batch.retry_count:
                # Sent before: its end takes it from here.
                accumulator._pending_batches.add(batch)  # noqa: SLF001 - as above
            batch.failure(UnknownTopicOrPartitionError())
            # Nobody waits for either.
            _ = batch.future.exception(), batch._drain_waiter.exception()  # noqa: SLF001 - as above


def _append(builder: BatchBuilder, record: OutRecord) -> bool:
    appended = builder.append(key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=record.headers)
    return appended is not None
