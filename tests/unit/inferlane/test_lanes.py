"""When a lane begins a batch beside one that is in work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.kafka.lanes import BatchSource, LaneOptions, Lanes
from inferlane.runtime.retry import Retrier

# Longer than any test here runs.
_NEVER_S = 60.0
# Shorter than a turn of the event loop.
_OVER_AT_ONCE_S = 1e-9


class _Batch:
    is_suspect = False


class EndlessSource:
    """Has a batch whenever it is asked."""

    def __init__(self) -> None:
        self.fetched = 0
        self.finished = 0

    async def start(self) -> None:
        """Join at once."""

    async def close(self) -> None:
        """Leave at once."""

    async def fetch(self, *, max_records: int, timeout_s: float) -> FetchedBatch | None:
        """Return the next batch."""
        assert max_records == 1
        assert timeout_s > 0
        self.fetched += 1
        return cast("FetchedBatch", _Batch())

    def finish(self, _batch: FetchedBatch) -> None:
        """Count what is finished."""
        self.finished += 1


class Works:
    """Batches that stay in work until they are told to end."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[None]] = []
        self.rest: Awaitable[object] | None = None
        self._has_begun = asyncio.Event()

    async def work(self, _batch: FetchedBatch, _lane: Lane) -> Awaitable[object] | None:
        """Wait until this batch is told to end."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun.append(over)
        self._has_begun.set()
        await over
        return self.rest

    async def until(self, count: int) -> None:
        """Return once so many batches have begun."""
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                self._has_begun.clear()
                await self._has_begun.wait()


async def turns() -> None:
    """Let all that is ready run."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def lane(works: Works, source: EndlessSource, *, in_flight: int, apart_s: float) -> AsyncIterator[None]:
    """A lane that runs, and is cancelled at the end."""
    options = LaneOptions(
        consumer=cast("BatchSource", source), max_records=lambda: 1, in_flight=in_flight, apart_s=apart_s
    )

    async def give_up(*_: Any) -> None:
        raise AssertionError("nothing here kills a process")

    lanes = Lanes({Lane.REQUESTS: options}, work=works.work, give_up=give_up, retrier=Retrier())
    running = asyncio.create_task(lanes.run(asyncio.Event()))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def test_what_comes_while_a_batch_is_in_work_is_the_next_batch() -> None:
    """Guards `apart_s`: two at once are more and smaller batches, each of which costs every process its share."""
    works, source = Works(), EndlessSource()
    async with lane(works, source, in_flight=2, apart_s=_NEVER_S):
        await works.until(1)
        await turns()
        assert source.fetched == 1
        works.begun[0].set_result(None)
        await works.until(2)
        await turns()
        assert (source.fetched, source.finished) == (2, 1)


@pytest.mark.parametrize("in_flight", [2, 3])
async def test_a_batch_that_takes_long_gets_others_beside_it(in_flight: int) -> None:
    """A slow broker or model must not make the lane wait; there are `in_flight` at most."""
    works, source = Works(), EndlessSource()
    async with lane(works, source, in_flight=in_flight, apart_s=_OVER_AT_ONCE_S):
        await works.until(in_flight)
        await turns()
        assert len(works.begun) == in_flight
        works.begun[0].set_result(None)
        await works.until(in_flight + 1)


async def test_a_batch_whose_rest_waits_for_a_failing_topic_does_not_hold_up_the_lane() -> None:
    """The lane goes on when `work` returns, although the batch is not finished."""
    works, source = Works(), EndlessSource()
    works.rest = asyncio.get_running_loop().create_future()
    async with lane(works, source, in_flight=1, apart_s=_NEVER_S):
        for number in range(3):
            await works.until(number + 1)
            works.begun[number].set_result(None)
        await works.until(4)
        assert source.finished == 0


async def test_without_a_time_apart_batches_are_begun_at_once() -> None:
    """As in the bulk lane, where the next batch is decoded while the model runs."""
    works, source = Works(), EndlessSource()
    async with lane(works, source, in_flight=2, apart_s=0.0):
        await works.until(2)
        await turns()
        assert source.fetched == 2
