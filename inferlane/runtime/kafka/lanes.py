"""The loop that every consuming process runs: for each lane fetch a batch, process it, finish it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from inferlane.contracts.naming import Lane
from inferlane.errors import FatalRecordError, InferlaneError
from inferlane.runtime.kafka.attempts import Isolation
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState
from inferlane.runtime.retry import Retrier
from inferlane.runtime.service import StoppedEarlyError, unless_stopped

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

log = structlog.get_logger(__name__)

IDLE_WAIT_S = 1.0
"""How long one fetch of a lane waits for records, in seconds, unless it is woken."""

Work = Callable[[FetchedBatch, Lane], Awaitable[Awaitable[object] | None]]
"""Returns when every record of the batch has a durable result, or, with the rest of the work, when the lane may go on
before that is so. What either raises ends the process."""

GiveUp = Callable[["ConsumerRecord", Lane, InferlaneError], Awaitable[None]]
"""Returns when a record that nobody may work on again has a durable terminal result: the error."""

Allowance = Callable[[int], int]
"""Of that many records, how many may be fetched now; 0 for none yet."""


def everything(max_records: int) -> int:
    """Return the whole allowance: this process never limits its fetches."""
    return max_records


class BatchSource(Protocol):
    """The source of a lane's batches: a `LaneConsumer`, or the `TopicFeed` of a consumer of many topics."""

    @property
    def has_joined(self) -> bool: ...

    @property
    def is_hurried(self) -> bool: ...

    def health(self) -> ConsumerHealth: ...

    async def start(self) -> None: ...

    async def fetch(self, *, max_records: int, timeout_s: float) -> FetchedBatch | None: ...

    async def begin_alone(self, batch: FetchedBatch) -> FatalRecordError | None: ...

    def finish(self, batch: FetchedBatch) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """The options of a lane: the most records of the next batch, and the most batches in work at once.

    `idle_wait_s`: how long one fetch may wait for records, and so how late a lane notices that it should stop.
    `apart_s`: how long a batch is in work alone before another is fetched beside it (docs/adr/0042).
    """

    consumer: BatchSource
    max_records: Callable[[], int]
    in_flight: int = 1
    idle_wait_s: float = IDLE_WAIT_S
    apart_s: float = 0.0


class Lanes:
    """The lanes of one process, each in a loop of its own, so that bulk never delays a waiting client."""

    def __init__(
        self,
        lanes: Mapping[Lane, LaneOptions],
        *,
        work: Work,
        give_up: GiveUp,
        retrier: Retrier,
        allowance: Allowance = everything,
        isolation: Isolation | None = None,
    ) -> None:
        """`isolation` is shared with all other lanes of the process, if there are others."""
        self._lanes = lanes
        self._give_up = give_up
        self._isolation = Isolation() if isolation is None else isolation
        self._allowance = allowance
        self._work = work
        self._retrier = retrier

    def ready(self) -> Mapping[str, bool]:
        """Return whether each lane has joined its group."""
        return {f"{lane}_lane": options.consumer.has_joined for lane, options in self._lanes.items()}

    def live(self) -> Mapping[str, bool]:
        """Return whether each lane makes progress or is blocked; False if only a restart can help."""
        health = self.health()
        return {f"{name}_progress": health[name].state is not ConsumerState.STUCK for name in health}

    def health(self) -> Mapping[str, ConsumerHealth]:
        """Return the state of each lane."""
        return {lane.value: options.consumer.health() for lane, options in self._lanes.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish and commit the fetched batches, and return.

        A broker that is away at the start is waited for.
        """
        try:
            for lane, options in self._lanes.items():
                start = self._retrier.until_done(options.consumer.start, stage=f"join:{lane}")
                await unless_stopped(start, stop)
            async with asyncio.TaskGroup() as loops:
                for lane, options in self._lanes.items():
                    loops.create_task(self._run_lane(lane, options, stop), name=f"lane:{lane}")
        except StoppedEarlyError:
            # Nothing was fetched yet.
            return
        finally:
            for options in self._lanes.values():
                await options.consumer.close()

    async def _run_lane(self, lane: Lane, options: LaneOptions, stop: asyncio.Event) -> None:
        free = asyncio.Semaphore(options.in_flight)
        async with asyncio.TaskGroup() as works:
            while not stop.is_set():
                await free.acquire()
                batch = await self._retrier.until_done(lambda: self._fetch(options, stop), stage=f"fetch:{lane}")
                if batch is None:
                    free.release()
                    continue
                if batch.is_suspect:
                    rest = await self._try_alone(options.consumer, batch, lane)
                    free.release()
                    if rest is None:
                        options.consumer.finish(batch)
                    else:
                        works.create_task(self._end(options.consumer, batch, rest))
                    continue
                worked_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                worked_on.add_done_callback(lambda _: free.release())
                works.create_task(self._finish(options.consumer, batch, lane, worked_on))
                if options.apart_s:
                    await asyncio.wait((worked_on,), timeout=options.apart_s)

    async def _fetch(self, options: LaneOptions, stop: asyncio.Event) -> FetchedBatch | None:
        # Checked at each retry: an unavailable broker must not keep a process that is told to stop.
        if stop.is_set():
            return None
        max_records = self._allowance(options.max_records())
        if max_records == 0:
            await asyncio.sleep(IDLE_WAIT_S)
            return None
        return await options.consumer.fetch(max_records=max_records, timeout_s=options.idle_wait_s)

    async def _finish(
        self, consumer: BatchSource, batch: FetchedBatch, lane: Lane, worked_on: "asyncio.Future[None]"
    ) -> None:
        try:
            async with self._isolation.beside_others():
                rest = await self._work(batch, lane)
        finally:
            worked_on.set_result(None)
        await self._end(consumer, batch, rest)

    async def _try_alone(self, consumer: BatchSource, batch: FetchedBatch, lane: Lane) -> Awaitable[object] | None:
        """Work on one record with nothing beside it, or dead-letter it if it killed a process; return as `Work`."""
        async with self._isolation.alone():
            error = await self._retrier.until_done(lambda: consumer.begin_alone(batch), stage=f"alone:{lane}")
            if error is None:
                return await self._work(batch, lane)
            (record,) = batch.records
            log.error("record_killed_process", lane=lane, topic=record.topic, offset=record.offset)
            await self._give_up(record, lane, error)
            return None

    async def _end(self, consumer: BatchSource, batch: FetchedBatch, rest: Awaitable[object] | None) -> None:
        if rest is not None:
            await rest
        consumer.finish(batch)
