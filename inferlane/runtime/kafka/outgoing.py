"""Records on their way out: how large they are, and the batches in which a partition gets them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from inferlane.contracts.outgoing import OutRecord
from inferlane.errors import PayloadTooLargeError

# Not compressed: tensors are noise to a compressor, and the size of a batch is known before it is sent.
_NO_COMPRESSION = 0


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
