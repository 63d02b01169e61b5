"""The pool member's work: take, decode, infer, deliver, commit; stages of successive batches overlap."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from inferlane.delivery import Answer, Delivery
from inferlane.errors import InferlaneError, UnavailableError
from inferlane.kafka.consuming import LaneConsumer, Take
from inferlane.topics import Lane, work_topic, worker_group
from workers.answers import Answers, RunTimes
from workers.batching import Outcome, run_batch, split_by_rows
from workers.observing import Observer
from workers.requests import UNREADABLE, Request, decode, headers_of
from workers.turns import Turnstile

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from inferlane.clock import Clock
    from inferlane.config import Settings
    from models.catalog import ModelVersion
    from workers.session import OnnxModel

log = structlog.get_logger(__name__)

_IDLE_WAIT_S = 0.5
_RETRY_S = 0.2
# Bulk records hold hundreds of rows each: a few fill a run, and a longer turn keeps waiting clients longer.
_BULK_RECORDS_A_TAKE = 4
# Bulk has no client that counts milliseconds, so its idle fetches may rest longer at the broker.
_BULK_FETCH_MAX_WAIT_MS = 100


class Pipeline:
    """One worker process of one version."""

    def __init__(
        self,
        settings: "Settings",
        *,
        version: "ModelVersion",
        model: "OnnxModel",
        delivery: Delivery,
        observer: Observer,
        clock: "Clock",
    ) -> None:
        self._settings = settings
        self._version = version
        self._model = model
        self._delivery = delivery
        self._observer = observer
        self._clock = clock
        self._answers = Answers(
            version, max_result_bytes=settings.max_result_bytes, results_sample=settings.results_sample
        )
        self._turnstile = Turnstile(bulk_share=settings.bulk_share, clock=clock)
        self._consumers = {lane: self._make_consumer(lane) for lane in Lane}
        # One thread: the session is the bottleneck, and a second one would only fight it for the core.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

    def _make_consumer(self, lane: Lane) -> LaneConsumer:
        model, version = self._version.model, self._version.version
        wait_ms = self._settings.fetch_max_wait_ms
        return LaneConsumer(
            self._settings,
            topic=work_topic(model, version, lane),
            group=worker_group(model, version),
            fetch_max_wait_ms=max(wait_ms, _BULK_FETCH_MAX_WAIT_MS) if lane is Lane.BULK else wait_ms,
        )

    def ready(self) -> Mapping[str, bool]:
        """Whether each lane has its place in the group."""
        return {f"{lane}_lane": consumer.has_joined for lane, consumer in self._consumers.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish and commit what was taken, and return.

        Raises:
            UnavailableError: the broker does not answer at start.
        """
        try:
            for consumer in self._consumers.values():
                await consumer.start()
            async with asyncio.TaskGroup() as lanes:
                for lane in Lane:
                    lanes.create_task(self._run_lane(lane, stop), name=f"lane:{lane}")
        finally:
            for consumer in self._consumers.values():
                await consumer.close()
            self._executor.shutdown(wait=False)

    async def _run_lane(self, lane: Lane, stop: asyncio.Event) -> None:
        consumer = self._consumers[lane]
        max_records = _BULK_RECORDS_A_TAKE if lane is Lane.BULK else self._settings.max_batch_rows
        in_flight = asyncio.Semaphore(self._settings.batches_in_flight)
        async with asyncio.TaskGroup() as batches:
            while not stop.is_set():
                await in_flight.acquire()
                take = await self._take(consumer, lane, max_records)
                if take is None:
                    in_flight.release()
                    continue
                work = batches.create_task(self._work(consumer, take, lane))
                work.add_done_callback(lambda _: in_flight.release())

    async def _take(self, consumer: LaneConsumer, lane: Lane, max_records: int) -> Take | None:
        try:
            return await consumer.take(max_records=max_records, timeout_s=_IDLE_WAIT_S)
        except UnavailableError as error:
            log.warning("take_retried", lane=lane, error=str(error))
            await asyncio.sleep(_RETRY_S)
            return None

    async def _work(self, consumer: LaneConsumer, take: Take, lane: Lane) -> None:
        requests: list[Request] = []
        refused: list[Answer] = []
        for record in take.records:
            try:
                requests.append(decode(record, lane, self._version.signature))
            except UNREADABLE as error:
                refused.append(self._refuse(record, lane, error))
            except Exception as error:  # a record must never stop the lane, whatever it holds
                log.exception("record_undecodable", topic=record.topic, offset=record.offset)
                refused.append(self._refuse(record, lane, InferlaneError(f"decoding failed: {error!r}")))
        if refused:
            await self._finish(refused, [], lane)
        for batch in split_by_rows(requests, self._settings.max_batch_rows):
            await self._infer(batch, lane)
        consumer.finish(take)

    async def _infer(self, batch: Sequence[Request], lane: Lane) -> None:
        async with self._turnstile.turn(lane):
            started_s = self._clock.now_s()
            due = [request for request in batch if not _has_expired(request, started_s)]
            outcomes = await self._run(due) if due else []
            times = RunTimes(started_s=started_s, ended_s=self._clock.now_s())
        answers = [self._answers.of_outcome(outcome, times) for outcome in outcomes]
        if len(due) < len(batch):
            answers += [
                self._answers.of_expired(request.headers, lane, now_s=started_s)
                for request in batch
                if _has_expired(request, started_s)
            ]
        await self._finish(answers, outcomes, lane)

    async def _run(self, batch: Sequence[Request]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, run_batch, self._model.run, batch)

    async def _finish(self, answers: Sequence[Answer], outcomes: Sequence[Outcome], lane: Lane) -> None:
        await self._delivery.deliver(answers)
        self._observer.observe(lane, [answer.result for answer in answers], outcomes)

    def _refuse(self, record: "ConsumerRecord", lane: Lane, error: InferlaneError) -> Answer:
        return self._answers.of_error(record, headers_of(record), lane, error, now_s=self._clock.now_s())


def _has_expired(request: Request, now_s: float) -> bool:
    deadline_s = request.headers.deadline_s
    return deadline_s is not None and now_s > deadline_s
