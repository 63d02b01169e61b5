"""One bulk job: produce records to the bulk lane and read their results from the results topic, in order."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from control_plane.bulk.rows import Chunk, result_lines
from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH, fixed_request_headers, read_unidentified
from inferlane.contracts.results import Status
from inferlane.contracts.wire.tensors import row_count
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response, encode_binary_request
from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_consumer, partitions_of
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_added_partitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from inferlane.runtime.settings import KafkaSettings

# Records on their way at once: enough to keep every worker busy, few enough that memory stays flat.
_IN_FLIGHT = 64
_RECORDS_A_SEND = 8
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The options of a job; without a `version` the traffic split decides."""

    model: str
    version: str | None
    classes: tuple[str, ...]
    stall_timeout_s: float


@dataclass(slots=True)
class JobReport:
    """The outcome of a job, in rows."""

    batch_id: str
    succeeded: int = 0
    failed: int = 0
    invalid: int = 0


class BulkJob:
    """A job that runs once: `await BulkJob(…).run(chunks, out)`."""

    def __init__(self, settings: "KafkaSettings", spec: JobSpec, *, on_progress: "Callable[[int], None]") -> None:
        self._settings = settings
        self._spec = spec
        self._on_progress = on_progress
        self._batch_id = uuid.uuid4().hex
        self._report = JobReport(self._batch_id)
        self._topic = settings.names.ingress[Lane.BULK]
        self._fixed = fixed_request_headers(source="inferlane/cli", model=spec.model)
        self._sent: dict[int, Chunk] = {}
        # The end of each id is drawn: who has seen one result cannot name the next, to answer it first.
        self._sequence_of: dict[str, int] = {}
        self._lines: dict[int, bytes] = {}
        self._next_line = 0
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._all_sent = False

    async def run(self, chunks: Iterator[Chunk], out: BinaryIO) -> JobReport:
        """Send every chunk and write every result, in order.

        Raises:
            UnavailableError: the broker does not answer, or no result came for `stall_timeout_s`.
        """
        async with AsyncExitStack() as stack:
            # Before the first record goes out, so that no result can come before we listen.
            consumer = await self._listen(stack)
            producer = BatchProducer(self._settings)
            await producer.start()
            stack.push_async_callback(producer.close)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._send(chunks, producer))
                    tasks.create_task(self._collect(consumer, out))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        return self._report

    async def _listen(self, stack: AsyncExitStack) -> "AIOKafkaConsumer":
        partitions = await partitions_of(self._settings, self._settings.names.results)
        consumer = make_consumer(self._settings, group=None, fetch_max_wait_ms=50)
        with broker_errors(self._settings.kafka_bootstrap_servers):
            stack.push_async_callback(consumer.stop)
            await consumer.start()
            consumer.assign(partitions)
            await consumer.seek_to_end()
        return consumer

    async def _send(self, chunks: Iterator[Chunk], producer: BatchProducer) -> None:
        pending: list[OutRecord] = []
        for sequence, chunk in enumerate(chunks):
            await self._acquire(pending, producer)
            self._report.invalid += len(chunk.faults)
            self._sent[sequence] = chunk
            if chunk.positions:
                pending.append(self._record(sequence, chunk))
            else:
                self._done(sequence, result_lines(chunk, [], model="", version="", error=None))
            if len(pending) >= _RECORDS_A_SEND:
                await producer.send(pending)
                pending.clear()
        await producer.send(pending)
        self._all_sent = True

    async def _acquire(self, pending: list[OutRecord], producer: BatchProducer) -> None:
        if self._slots.locked() and pending:
            # Nothing comes back for what was not sent: waiting with it in hand would be waiting for ever.
            await producer.send(pending)
            pending.clear()
        await self._slots.acquire()

    def _record(self, sequence: int, chunk: Chunk) -> OutRecord:
        payload, json_length = encode_binary_request(chunk.tensors)
        request_id = f"{self._batch_id}-{sequence}-{secrets.token_hex(16)}"
        self._sequence_of[request_id] = sequence
        headers = [
            *self._fixed,
            ("ce_id", request_id.encode()),
            ("ce_time", format_time(time.time())),
            ("ce_batchid", self._batch_id.encode()),
            (JSON_LENGTH, b"%d" % json_length),
        ]
        if self._spec.version is not None:
            headers.append(("ce_modelversion", self._spec.version.encode()))
        return OutRecord(self._topic, request_id.encode(), payload, headers, max_run=1)

    async def _collect(self, consumer: "AIOKafkaConsumer", out: BinaryIO) -> None:
        last_s = time.monotonic()
        while not (self._all_sent and not self._sent and not self._lines):
            with broker_errors(self._settings.kafka_bootstrap_servers):
                # Workers write to partitions that are added while the job runs.
                await read_added_partitions(consumer, self._settings.names.results)
                fetched = await consumer.getmany(timeout_ms=int(_POLL_S * 1000))
            before = self._next_line
            for records in fetched.values():
                for record in records:
                    self._take(record)
            self._write(out)
            if self._next_line > before or not self._sent:
                last_s = time.monotonic()
            elif time.monotonic() - last_s > self._spec.stall_timeout_s:
                raise UnavailableError(
                    f"no result for {self._spec.stall_timeout_s:g} s, {len(self._sent)} records are on their way; "
                    "`inferlane doctor` tries every hop"
                )

    def _take(self, record: "ConsumerRecord") -> None:
        named = dict(record.headers)
        # The topic is everybody's: only our own records need be readable.
        if named.get("ce_batchid") != self._batch_id.encode():
            return
        headers = read_unidentified(record)
        sequence = self._sequence_of.pop(headers.request_id, None)
        if sequence is None:
            return  # A duplicate, as workers deliver at least once, or none of ours.
        chunk = self._sent[sequence]
        if named["ce_status"] == Status.SUCCEEDED.value.encode():
            outputs = decode_response(record.value or b"", headers.json_length)
            predictions = encode_predictions(outputs, self._spec.classes)
            self._report.succeeded += row_count(outputs)
            error = None
        else:
            predictions = []
            self._report.failed += len(chunk.positions)
            error = {
                "code": named.get("ce_errorcode", b"").decode(),
                "detail": named.get("ce_errordetail", b"").decode(),
            }
        lines = result_lines(chunk, predictions, model=headers.model or "", version=headers.version or "", error=error)
        self._done(sequence, lines)

    def _done(self, sequence: int, lines: bytes) -> None:
        del self._sent[sequence]
        self._lines[sequence] = lines

    def _write(self, out: BinaryIO) -> None:
        while self._next_line in self._lines:
            lines = self._lines.pop(self._next_line)
            out.write(lines)
            self._next_line += 1
            self._slots.release()
            self._on_progress(lines.count(b"\n"))
