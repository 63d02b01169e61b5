"""The pipeline of a worker: decode, infer and deliver a fetched batch. Stages of successive batches overlap."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.fallback import is_overdue
from inferlane.contracts.naming import Lane
from inferlane.errors import InferlaneError, ModelError, clipped
from inferlane.runtime.delivery import Delivery, Reply
from inferlane.runtime.kafka.consumer import FetchedBatch
from workers.batch_telemetry import BatchTelemetry
from workers.batching import Batch, BatchRun, InferredRequest, RunTimes, batches_of, in_a_row, join, pieces_of
from workers.fallback_writer import FallbackWriter
from workers.lane_scheduler import LaneScheduler, Processor
from workers.model import HELD_BYTES, BatchRunner
from workers.replies import ReplyBuilder
from workers.request_reader import RequestReader
from workers.requests import Request, headers_of

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from inferlane.contracts.naming import Names
    from inferlane.runtime.rerouting import MovedRequests
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import FeedbackSettings, WorkerSettings
    from inferlane.runtime.settings import KafkaSettings
    from models.catalog import ModelVersion
    from workers.model import OnnxModel
    from workers.run_limit import RunLimit
    from workers.shadow_copies import ShadowCopies

log = structlog.get_logger(__name__)

# Bulk records of one turn of the event loop, half a millisecond or so. More delay a client's request, fewer cost more
# turns.
_BULK_RECORDS_A_TURN = 8
# Turns of the event loop until whoever waits for the model runs: the scheduler decides in one and wakes it in the next.
_TURNS_TO_HAND_OVER = 2


@dataclass(frozen=True, slots=True)
class BatchReply:
    """A batch and its replies, before they are delivered."""

    batch: Batch
    replies: Sequence[Reply]

    @property
    def content_bytes(self) -> int:
        return sum(len(reply.result.content) for reply in self.replies)


class Pipeline:
    """Turns fetched batches of one version into delivered replies."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        worker: "WorkerSettings",
        feedback: "FeedbackSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        model: "OnnxModel",
        delivery: Delivery,
        telemetry: BatchTelemetry,
        fallbacks: FallbackWriter,
        shadows: "ShadowCopies",
        cancelled: Container[str],
        clock: "Clock",
        moved: "MovedRequests | None" = None,
        run_limit: "RunLimit | None" = None,
        processor: Processor | None = None,
    ) -> None:
        """`cancelled` are keys of requests, `moved` is what another version was given, `run_limit` that of a trial.

        `processor` is shared with the other versions of the process.
        """
        self._moved = moved
        self._max_batch_rows = worker.max_batch_rows
        self._model = model
        self._reader = RequestReader(model.version)
        self._delivery = delivery
        self._telemetry = telemetry
        self._fallbacks = fallbacks
        self._shadows = shadows
        self._cancelled = cancelled
        self._clock = clock
        self._replies = ReplyBuilder(
            model.version,
            names=names,
            max_result_bytes=kafka.max_result_bytes,
            results_sample=worker.results_sample,
            tokens=feedback.tokens,
        )
        self._runner = BatchRunner(
            model.run,
            scheduler=processor.scheduler if processor else LaneScheduler(bulk_share=worker.bulk_share, clock=clock),
            clock=clock,
            threads=worker.intra_op_num_threads,
            may_run_on_loop=model.version.steps is None,
            limit=run_limit,
            version=f"{model.version.model}/{model.version.version}",
            executor=processor.executor if processor else None,
        )

    @property
    def version(self) -> "ModelVersion":
        """The version that this worker serves."""
        return self._model.version

    @property
    def spent_s(self) -> float:
        """CPU seconds of all its runs."""
        return self._runner.spent_s

    def close(self) -> None:
        """Release the inference thread; it ends after the run under way."""
        self._runner.close()

    async def serve(self, fetched: FetchedBatch, lane: Lane) -> None:
        """Return when every record of the fetched batch has a durable terminal result."""
        fetched_s = self._clock.now_s()
        self._telemetry.observe_fetched(fetched.records, lane, now_s=fetched_s)
        requests: list[Request] = []
        refused: list[Reply] = []
        left = fetched.records if self._moved is None else self._moved.left(fetched.records, lane)
        a_turn = _BULK_RECORDS_A_TURN if lane is Lane.BULK else max(1, len(left))
        for start in range(0, len(left), a_turn):
            if start:
                await asyncio.sleep(0)
            readable, others = self._reader.read(left[start : start + a_turn], lane)
            requests += readable
            refused += [self._refuse(record, lane, error) for record, error in others]
        if refused:
            await self._finish([BatchReply(Batch(lane=lane, fetched_s=fetched_s), refused)])
        max_rows = self._runner.most_rows(self._max_batch_rows, lane)
        batches = list(batches_of(requests, self._model.version.signature, max_rows))
        held: list[BatchReply] = []
        while batches:
            if lane is Lane.BULK and (most := self._runner.most_rows(self._max_batch_rows, lane)) != max_rows:
                # Clients have come, or gone, since these batches were cut.
                max_rows = most
                waiting = [request for batch in batches for request in batch]
                batches = list(batches_of(waiting, self._model.version.signature, max_rows))
            # No client waits for a bulk result: run the batches in a row and deliver their replies in one round trip.
            turn = batches[:1] if lane is Lane.REQUESTS else in_a_row(batches, max_rows)
            done = await self._infer(turn, lane, fetched_s, max_rows)
            batches = batches[len(done) :]
            held += done
            if lane is Lane.REQUESTS or sum(part.content_bytes for part in held) >= HELD_BYTES:
                await self._finish(held)
                held = []
        if held:
            await self._finish(held)

    async def give_up(self, record: "ConsumerRecord", lane: Lane, error: InferlaneError) -> None:
        """Dead-letter a record that must not be tried again; return when its terminal result is durable."""
        refused = self._refuse(record, lane, error)
        await self._finish([BatchReply(Batch(lane=lane, fetched_s=self._clock.now_s()), [refused])])

    async def _infer(
        self, batches: Sequence[Sequence[Request]], lane: Lane, fetched_s: float, max_rows: int
    ) -> list[BatchReply]:
        """Run the first batch in a turn of the scheduler, and the others too while no client waits for a turn."""
        if batches[0][0].rows > max_rows:
            return [await self._infer_in_pieces(batches[0][0], lane, fetched_s, max_rows)]
        async with self._runner.turn(lane):
            now_s = self._clock.now_s()
            sorted_out = [self._sort_out(batch, lane, now_s) for batch in batches]
            runs = await self._runner.run([due for due, _ in sorted_out])
        if lane is Lane.BULK:
            for _ in range(_TURNS_TO_HAND_OVER):
                # The next batch begins its run before the replies of this one are made: the model would be idle.
                await asyncio.sleep(0)
        return [
            BatchReply(
                Batch(lane=lane, fetched_s=fetched_s, run=run if due else None),
                early + [self._reply(inferred, lane, run.times) for inferred in run.inferred],
            )
            for (due, early), run in zip(sorted_out, runs, strict=False)
        ]

    async def _infer_in_pieces(self, request: Request, lane: Lane, fetched_s: float, max_rows: int) -> BatchReply:
        """Run a request that is larger than a batch in pieces, one turn each, so that other requests run in between."""
        inferred: list[InferredRequest] = []
        runs: list[RunTimes] = []
        for piece in pieces_of(request, max_rows):
            async with self._runner.turn(lane):
                early = self._reply_early(request, lane, self._clock.now_s())
                if early is not None:
                    return BatchReply(Batch(lane=lane, fetched_s=fetched_s), [early])
                (run,) = await self._runner.run([[piece]])
            inferred += run.inferred
            runs.append(run.times)
            if inferred[-1].error is not None:
                break
        started_s, ended_s = runs[0].started_s, runs[-1].ended_s
        waited_s = ended_s - started_s - sum(times.inference_s for times in runs)
        times = RunTimes(started_s=started_s, ended_s=ended_s, waited_s=waited_s)
        whole = self._join(request, inferred)
        return BatchReply(
            Batch(lane=lane, fetched_s=fetched_s, run=BatchRun([whole], times)), [self._reply(whole, lane, times)]
        )

    def _join(self, request: Request, pieces: Sequence[InferredRequest]) -> InferredRequest:
        try:
            return join(request, pieces)
        except Exception as error:  # outputs that do not fit together are one request's failure
            log.exception("pieces_not_joined", request_id=request.headers.request_id)
            failure = ModelError(f"the outputs of its pieces do not fit together: {error!r}")
            return InferredRequest(request, None, failure)

    def _sort_out(self, batch: Sequence[Request], lane: Lane, now_s: float) -> tuple[list[Request], list[Reply]]:
        """Return the requests to infer, and the replies of those that are expired, cancelled or overdue."""
        due: list[Request] = []
        replies: list[Reply] = []
        for request in batch:
            early = self._reply_early(request, lane, now_s)
            if early is None:
                due.append(request)
            else:
                replies.append(early)
        return due, replies

    def _reply_early(self, request: Request, lane: Lane, now_s: float) -> Reply | None:
        """Return the reply of an expired, cancelled or overdue request; None for one to infer."""
        headers = request.headers
        if headers.deadline_s is not None and now_s > headers.deadline_s:
            return self._replies.of_expired(headers, lane, now_s=now_s)
        if headers.key in self._cancelled:
            return self._replies.of_cancelled(headers, lane, now_s=now_s)
        if headers.fallback is not None:
            if is_overdue(headers, now_s=now_s):
                return self._replies.of_overdue(request.record, headers, lane, now_s=now_s)
            if self._runner.hands_over:
                return self._replies.of_halted(request.record, headers, lane, now_s=now_s)
        return None

    def _reply(self, inferred: InferredRequest, lane: Lane, times: RunTimes) -> Reply:
        try:
            return self._replies.of_inferred(inferred, times)
        except Exception as error:  # outputs that cannot be encoded are one request's failure, not the batch's
            request = inferred.request
            log.exception("result_not_encoded", request_id=request.headers.request_id)
            failure = ModelError(f"the model's outputs cannot be encoded: {clipped(repr(error))}")
            return self._replies.of_error(request.record, request.headers, lane, failure, now_s=times.ended_s)

    async def _finish(self, held: Sequence[BatchReply]) -> None:
        copies: list[BatchReply] = []
        if any(reply.is_copy or reply.fallback is not None for done in held for reply in done.replies):
            copies = [_part(done, is_copy=True) for done in held if any(reply.is_copy for reply in done.replies)]
            held = [_part(done, is_copy=False) for done in held]
            held = [await self._fallen_back(done) for done in held]
        await self._delivery.deliver([reply for done in held for reply in done.replies if reply.fallback is None])
        now_s = self._clock.now_s()
        for number, done in enumerate(held, start=1):
            if _gives_way(number, done.batch.lane):
                await asyncio.sleep(0)
            self._telemetry.observe(done.batch, done.replies, now_s=now_s)
            self._shadows.send_copies(done.batch.run)
        for done in copies:
            self._shadows.send_copies(done.batch.run)
        if copies:
            await self._shadows.compare([(done.batch.run, done.replies) for done in copies])

    async def _fallen_back(self, done: BatchReply) -> BatchReply:
        """The batch once its fallback records are durable; a reply whose record was refused has none any more."""
        if all(reply.fallback is None for reply in done.replies):
            return done
        return BatchReply(done.batch, await self._fallbacks.write(done.replies))

    def _refuse(self, record: "ConsumerRecord", lane: Lane, error: InferlaneError) -> Reply:
        return self._replies.of_error(record, headers_of(record), lane, error, now_s=self._clock.now_s())


def _gives_way(number: int, lane: Lane) -> bool:
    """Whether the event loop does other work before this one of many bulk records, such as that for a client."""
    return lane is Lane.BULK and not number % _BULK_RECORDS_A_TURN


def _part(done: BatchReply, *, is_copy: bool) -> BatchReply:
    """Return what a batch holds of shadow copies, or of the others."""
    replies = [reply for reply in done.replies if reply.is_copy is is_copy]
    run = done.batch.run
    if run is not None:
        own = [one for one in run.inferred if one.request.headers.is_copy is is_copy]
        run = BatchRun(own, run.times) if own else None
    return BatchReply(Batch(lane=done.batch.lane, fetched_s=done.batch.fetched_s, run=run), replies)
