"""Write records, including dead letters, until each is written or refused for good.

A dead letter that cannot be written never blocks the records behind it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder

from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.kafka_record import KafkaRecord, OutRecord, check_size
from inferlane.errors import InferlaneError, NotServedError, PayloadTooLargeError, RecordRefusedError, UnavailableError
from inferlane.runtime.retry import Retrier

if TYPE_CHECKING:
    import asyncio

    from inferlane.runtime.kafka.direct_producer import DirectProducer


class Sender(Protocol):
    """The part of `inferlane.runtime.kafka.producer.BatchProducer` that is used here."""

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        """Return for each record None if it was written, else the error."""
        ...


class PatientSender:
    """Treats a missing topic as an unavailable one: for records that have no other place."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        """Send as the sender does, but return a retryable error where a person must act."""
        return [
            UnavailableError(str(error)) if isinstance(error, RecordRefusedError) else error
            for error in await self._sender.send_each(records)
        ]


def never() -> bool:
    """Return False: never give up."""
    return False


async def write_each(
    sender: Sender,
    retrier: Retrier,
    records: Sequence[OutRecord],
    *,
    stage: str,
    gives_up: Callable[[], bool] = never,
) -> Sequence[InferlaneError | None]:
    """Return for each record None if it was written, else the error that prevents it for good.

    Only records with a retryable error are sent again, until `gives_up` returns true: then their error is returned too.

    Raises:
        NotServedError: the broker does not serve us; records that were not written are not refused either.
    """
    outcomes: list[InferlaneError | None] = [None] * len(records)
    left = list(range(len(records)))

    async def send_left() -> None:
        nonlocal left
        found = dict(zip(left, await sender.send_each([records[number] for number in left]), strict=True))
        for number, error in found.items():
            if isinstance(error, NotServedError):
                raise error
            outcomes[number] = error
        again = {number: error for number, error in found.items() if isinstance(error, UnavailableError)}
        left = list(again)
        if left and not gives_up():
            raise again[left[0]]

    if records:
        await retrier.until_done(send_left, stage=stage)
    return outcomes


# Kafka's numbers of the codecs.
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def over_topic_limit(topic: str, size_bytes: int, limit_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"a record of {size_bytes} bytes is over what {topic} takes, {limit_bytes} bytes; send fewer rows a request, "
        "or raise max.message.bytes of the topic",
        limit_bytes=limit_bytes,
    )


class OutBatch(msgspec.Struct, frozen=True):
    """A batch, and the indices of its records."""

    builder: BatchBuilder
    numbers: list[int]


class SentBatch(msgspec.Struct, frozen=True):
    """A batch that is on its way to the broker, and what will have the error if the broker does not take it."""

    producer: "DirectProducer"
    batch: OutBatch
    future: "asyncio.Future[object]"


@dataclass(slots=True)
class PlacedRecords:
    """Records for one partition that are being sent: the indices of those without an outcome."""

    topic: str
    partition: int
    numbers: list[int]
    # By the clock of the event loop: when the broker should have answered.
    until_s: float
    # Whether each record gets a batch of its own, to find the one that is refused.
    is_alone: bool = False
    # All of them together, if they are sent already.
    sent: SentBatch | None = None


def make_builder(limit_bytes: int, *, codec: int = CODECS["none"]) -> BatchBuilder:
    """Return an empty batch that takes records up to the limit, and one of any size if it is the first.

    The limit is of the size before compression.
    """
    return BatchBuilder(limit_bytes, codec, is_transactional=False, key_serializer=None, value_serializer=None)


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


# Larger batches gain nothing from being sent at once.
_SMALL_BYTES = 256 * 1024
# Small requests are mostly headers, which repeat from record to record; tensors hardly compress for what it costs.
_FEWEST_COMPRESSED, _MOST_COMPRESSED_MEAN_BYTES = 4, 1024


def one_small_batch(
    records: Sequence[OutRecord], numbers: Sequence[int], make: Callable[[], BatchBuilder], *, codec: int
) -> OutBatch | None:
    """Return the records of these numbers, which go to one partition, as one batch; None if they are large.

    Requests that go together (`max_run`) are compressed with `codec` if there are some and they are small. Records of
    other topics are not, since clients read those, and not every client has every codec.
    """
    size_bytes = sum([len(records[number].value) for number in numbers])
    if size_bytes > _SMALL_BYTES:
        return None
    if (
        codec != CODECS["none"]
        and len(numbers) >= _FEWEST_COMPRESSED
        and records[numbers[0]].max_run
        and size_bytes <= _MOST_COMPRESSED_MEAN_BYTES * len(numbers)
    ):
        # No more than consumers decompress with the smallest limits (`batch_limit_bytes`).
        batch, *more = cut_into_batches(records, numbers, lambda: make_builder(_SMALL_BYTES, codec=codec))
        if not more:
            return batch
    batch, *more = cut_into_batches(records, numbers, make)
    return None if more else batch


def drop_batches(producer: AIOKafkaProducer, topic: str) -> None:
    """Drop the batches that the producer holds for a missing topic.

    aiokafka would ask for that topic's leader in a busy loop until the batches are too old.
    """
    accumulator = producer._message_accumulator  # noqa: SLF001 - it has no method for this
    for partition in [partition for partition in accumulator._batches if partition.topic == topic]:  # noqa: SLF001 - as above
        for batch in accumulator._batches.pop(partition):  # noqa: SLF001 - as above
            if batch.retry_count:
                # Sent already: its completion removes it.
                accumulator._pending_batches.add(batch)  # noqa: SLF001 - as above
            batch.failure(UnknownTopicOrPartitionError())
            # No caller waits for either future.
            _ = batch.future.exception(), batch._drain_waiter.exception()  # noqa: SLF001 - as above


def _append(builder: BatchBuilder, record: OutRecord) -> bool:
    appended = builder.append(key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=record.headers)
    return appended is not None


# The most bytes in a row on one partition: one record on each partition would cost a batch for each.
_FILL_BYTES = 64 * 1024
# About the golden ratio: successive partitions lie far apart, so they belong to different consumers where each consumer
# has a range of partitions.
_STRIDE = 0.618


class StickyPartitioner:
    """The `partitions` of one topic in turn. Source of the idea: KIP-480 and KIP-794, for records without a key."""

    def __init__(self, partitions: int, *, first: int) -> None:
        """Begin at `first`, modulo `partitions`: processes should begin at different partitions."""
        self.partitions = partitions
        steps = range(max(1, round(partitions * _STRIDE)), 2 * partitions)
        self._stride = next(step for step in steps if math.gcd(step, partitions) == 1)
        self._partition = first % partitions
        self._records = 0
        self._bytes = 0

    def move_on(self) -> None:
        """Move to the next partition, because this one may have a batch under way."""
        self._partition = (self._partition + self._stride) % self.partitions
        self._records = self._bytes = 0

    def place(self, size_bytes: int, *, max_run: int) -> int:
        """Return the partition of a record of that size, of which at most `max_run` go to one in a row."""
        if self._records >= max_run or self._bytes >= _FILL_BYTES:
            self.move_on()
        self._records += 1
        self._bytes += size_bytes
        return self._partition


log = structlog.get_logger(__name__)

Unserved = tuple[KafkaRecord, Cause]
_STAGE = "dead_letters"


class DeadLetterWriter:
    """Writes records that could not be served to the dead-letter topic. Used from one event loop."""

    def __init__(self, sender: Sender, retrier: Retrier, *, topic: str, limit_bytes: int) -> None:
        """`limit_bytes`: the most bytes of a value that are kept."""
        self._topic = topic
        self._sender = sender
        self._retrier = retrier
        self._limit_bytes = limit_bytes

    async def write(self, unserved: Sequence[Unserved]) -> Sequence[InferlaneError | None]:
        """Return for each record None if its dead letter was written, else the error: the topic is missing or denied.

        A dead letter that is too large for its topic is cut to the topic's limit, in the end to the record's position.
        """
        dead = [
            dead_letter(record, cause, topic=self._topic, limit_bytes=self._limit_bytes) for record, cause in unserved
        ]
        outcomes = list(await write_each(self._sender, self._retrier, dead, stage=_STAGE))
        for cut in (_cut_to, _cut_to_reference):
            large = [number for number, error in enumerate(outcomes) if isinstance(error, PayloadTooLargeError)]
            smaller = [cut(unserved[number], dead[number], outcomes[number]) for number in large]
            again = await write_each(self._sender, self._retrier, smaller, stage=_STAGE)
            for number, outcome in zip(large, again, strict=True):
                outcomes[number] = outcome
        for (record, cause), error in zip(unserved, outcomes, strict=True):
            if error is not None:
                log.error(
                    "dead_letter_not_kept",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=cause.reason,
                    error=str(error),
                    remedy="the record lies at this offset until retention takes it",
                )
        return outcomes


def _cut_to(unserved: Unserved, dead: OutRecord, error: InferlaneError | None) -> OutRecord:
    record, cause = unserved
    limit_bytes = getattr(error, "limit_bytes", None) or 0
    around_bytes = check_size(dead, limit_bytes=2**62) - len(dead.value)
    return dead_letter(record, cause, topic=dead.topic, limit_bytes=limit_bytes - around_bytes)


def _cut_to_reference(unserved: Unserved, dead: OutRecord, _error: InferlaneError | None) -> OutRecord:
    record, cause = unserved
    return dead_letter(record, cause, topic=dead.topic, limit_bytes=-1)
