"""One bulk job: produce records to the bulk lane and read their results from the results topic, in order."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

import structlog

from control_plane.bulk.chunks import Chunk
from control_plane.bulk.client_watch import PacedSteps, watch_clients
from control_plane.bulk.result_lines import failed_lines, predicted_lines
from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH, fixed_request_headers, read_unidentified
from inferlane.contracts.results import Status
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.contracts.wire.v2 import decode_response, encode_binary_request
from inferlane.errors import DecodeError, UnavailableError
from inferlane.runtime.kafka.arrivals import ArrivalListener
from inferlane.runtime.kafka.clients import broker_errors, make_consumer, partitions_of
from inferlane.runtime.kafka.fetcher import rest_between_fetches
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_added_partitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from inferlane.contracts.naming import Names
    from inferlane.contracts.record import RequestHeaders
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# Records of one send, and their bytes: fewer cost router, broker and workers a batch more often, and each batch a
# millisecond of CPU; more reach the first worker later.
_RECORDS_A_SEND, _BYTES_A_SEND = 32, 1024 * 1024
# How long the collector waits for a result before it looks whether the job has stalled, and at the partitions.
_POLL_S = 0.2
# As little as a broker that holds a fetch should let the first result of many wait.
_FETCH_WAIT_MS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The options of a job; without a `version` the traffic split decides."""

    model: str
    version: str | None
    # By version: the split may send rows to any of them.
    classes: Mapping[str, ClassNames]
    stall_timeout_s: float


class SendWindow:
    """The records on their way: enough of them to keep every worker busy, few enough that memory stays flat.

    `_FEWEST` whatever they hold, and as many as hold `_MOST_BYTES`, at most `_MOST`.
    """

    _FEWEST, _MOST, _MOST_BYTES = 64, 512, 4 * 1024 * 1024

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._bytes = 0
        self._has_left = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether another record may be sent."""
        return len(self._held) < self._FEWEST or (len(self._held) < self._MOST and self._bytes < self._MOST_BYTES)

    async def wait_for_room(self) -> None:
        """Return once another record may be sent."""
        while not self.has_room:
            self._has_left.clear()
            await self._has_left.wait()

    def enter(self, sequence: int, size_bytes: int) -> None:
        """Note that a record goes out."""
        self._held[sequence] = size_bytes
        self._bytes += size_bytes

    def leave(self, sequence: int) -> None:
        """Note that the lines of a record are written."""
        self._bytes -= self._held.pop(sequence)
        self._has_left.set()


@dataclass(slots=True)
class JobReport:
    """The outcome of a job, in rows; it paused for `paused_s` because clients were about."""

    batch_id: str
    succeeded: int = 0
    failed: int = 0
    invalid: int = 0
    paused_s: float = 0.0


class BulkJob:
    """A job that runs once: `await BulkJob(…).run(chunks, out)`."""

    def __init__(
        self, kafka: "KafkaSettings", names: "Names", spec: JobSpec, *, on_progress: "Callable[[int], None]"
    ) -> None:
        self._kafka = kafka
        self._names = names
        self._spec = spec
        self._on_progress = on_progress
        self._batch_id = uuid.uuid4().hex
        self._report = JobReport(self._batch_id)
        self._topic = names.ingress[Lane.BULK]
        self._fixed = fixed_request_headers(source="inferlane/cli", model=spec.model)
        self._sent: dict[int, Chunk] = {}
        # The end of each id is drawn: who has seen one result cannot name the next, to answer it first.
        self._sequence_of: dict[str, int] = {}
        self._lines: dict[int, bytes] = {}
        self._next_line = 0
        self._rows_of: dict[int, int] = {}
        self._window = SendWindow()
        self.steps = PacedSteps()
        self._all_sent = False
        self._unreadable = 0

    async def run(self, chunks: Iterator[Chunk], out: BinaryIO) -> JobReport:
        """Send every chunk and write every result, in order.

        Raises:
            UnavailableError: the broker does not answer, or no result came for `stall_timeout_s`.
        """
        async with AsyncExitStack() as stack:
            # Before the first record goes out, so that no result can come before we listen.
            consumer = await self._listen(stack)
            producer = BatchProducer(self._kafka)
            await producer.start()
            stack.push_async_callback(producer.close)
            try:
                async with asyncio.TaskGroup() as tasks:
                    requests = self._names.ingress[Lane.REQUESTS]
                    over = asyncio.Event()
                    watch = tasks.create_task(watch_clients(self._kafka, requests, consumer, self.steps.pace, over))
                    tasks.create_task(self._send(chunks, producer, tasks))
                    await self._collect(consumer, out)
                    over.set()
                    watch.cancel()
            except ExceptionGroup as group:
                raise group.exceptions[0] from group
        self._report.paused_s = self.steps.paused_s
        return self._report

    async def _listen(self, stack: AsyncExitStack) -> "AIOKafkaConsumer":
        partitions = await partitions_of(self._kafka, self._names.results)
        consumer = make_consumer(self._kafka, group=None, fetch_max_wait_ms=_FETCH_WAIT_MS)
        with broker_errors(self._kafka.bootstrap_servers):
            stack.push_async_callback(consumer.stop)
            await consumer.start()
            consumer.assign(partitions)
            await consumer.seek_to_end()
        if self._kafka.rests_dir is not None:
            arrivals = ArrivalListener(self._kafka.rests_dir, self._names.results)
            stack.callback(arrivals.close)
            arrivals.listen(effect="results are asked for often")
            rest_between_fetches(consumer, arrivals, wakes_fetches=False)
        return consumer

    async def _send(self, chunks: Iterator[Chunk], producer: BatchProducer, tasks: asyncio.TaskGroup) -> None:
        """Send every chunk; the next ones are read while the broker acknowledges the ones before."""
        pending: list[OutRecord] = []
        pending_bytes = 0
        under_way: asyncio.Task[None] | None = None
        for sequence, chunk in enumerate(chunks):
            await self.steps.pause()
            is_full = len(pending) >= _RECORDS_A_SEND or pending_bytes >= _BYTES_A_SEND
            # Nothing comes back for what was not sent: waiting with it in hand would be waiting for ever.
            if pending and (is_full or not self._window.has_room):
                if under_way is not None:
                    await under_way
                under_way = tasks.create_task(producer.send(pending))
                pending, pending_bytes = [], 0
            await self._window.wait_for_room()
            self._report.invalid += len(chunk.faults)
            record = self._record(sequence, chunk) if chunk.positions else None
            size_bytes = 0 if record is None else len(record.value)
            self._window.enter(sequence, size_bytes)
            # What was sent is not needed again.
            self._sent[sequence] = replace(chunk, tensors={}, rejects=())
            if record is None:
                self._done(sequence, failed_lines(chunk, {}))
            else:
                pending.append(record)
                pending_bytes += size_bytes
        if under_way is not None:
            await under_way
        await producer.send(pending)
        self._all_sent = True

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
        return OutRecord(self._topic, request_id.encode(), payload, headers, max_run=_RECORDS_A_SEND)

    async def _collect(self, consumer: "AIOKafkaConsumer", out: BinaryIO) -> None:
        last_s = time.monotonic()
        while not (self._all_sent and not self._sent and not self._lines):
            with broker_errors(self._kafka.bootstrap_servers):
                # Workers write to partitions that are added while the job runs.
                await read_added_partitions(consumer, self._names.results)
                fetched = await consumer.getmany(timeout_ms=int(_POLL_S * 1000))
            before = self._next_line
            for records in fetched.values():
                for record in records:
                    await self.steps.pause()
                    self._take(record)
            self._write(out)
            if self._next_line > before or not self._sent:
                last_s = time.monotonic()
            elif time.monotonic() - last_s > self._spec.stall_timeout_s:
                raise UnavailableError(
                    f"no result for {self._spec.stall_timeout_s:g} s, {len(self._sent)} records are on their way"
                    f"{self._said_of_unreadable()}; `inferlane doctor` tries every hop"
                )

    def _said_of_unreadable(self) -> str:
        return f", and {self._unreadable} records that name this job are no results" if self._unreadable else ""

    def _take(self, record: "ConsumerRecord") -> None:
        named = dict(record.headers)
        if named.get("ce_batchid") != self._batch_id.encode():
            return
        try:
            headers = read_unidentified(record)
        except DecodeError as error:
            # The topic is everybody's, and so is the id of this job to whoever reads it.
            self._unreadable += 1
            log.warning("bulk_result_not_readable", partition=record.partition, offset=record.offset, error=str(error))
            return
        sequence = self._sequence_of.pop(headers.request_id, None)
        if sequence is None:
            return  # A duplicate, as workers deliver at least once, or none of ours.
        chunk = self._sent[sequence]
        if named.get("ce_status") == Status.SUCCEEDED.value.encode():
            try:
                lines = self._predicted(record, headers, chunk)
            except DecodeError as error:
                lines = self._failed(chunk, code=error.code, detail=str(error))
        else:
            lines = self._failed(
                chunk,
                code=named.get("ce_errorcode", b"").decode(errors="replace"),
                detail=named.get("ce_errordetail", b"").decode(errors="replace"),
            )
        self._done(sequence, lines)

    def _predicted(self, record: "ConsumerRecord", headers: "RequestHeaders", chunk: Chunk) -> bytes:
        outputs = decode_response(record.value or b"", headers.json_length)
        version = headers.version or ""
        classes = self._spec.classes.get(version, NO_NAMES)
        lines = predicted_lines(chunk, outputs, model=headers.model or "", version=version, classes=classes)
        self._report.succeeded += len(chunk.positions)
        return lines

    def _failed(self, chunk: Chunk, *, code: str, detail: str) -> bytes:
        self._report.failed += len(chunk.positions)
        return failed_lines(chunk, {"code": code, "detail": detail})

    def _done(self, sequence: int, lines: bytes) -> None:
        self._rows_of[sequence] = self._sent.pop(sequence).row_count
        self._lines[sequence] = lines

    def _write(self, out: BinaryIO) -> None:
        written = 0
        while self._next_line in self._lines:
            out.write(self._lines.pop(self._next_line))
            written += self._rows_of.pop(self._next_line)
            self._window.leave(self._next_line)
            self._next_line += 1
        if written:
            self._on_progress(written)
