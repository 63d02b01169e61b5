"""The loop that keeps fetches under way: as aiokafka's, but it waits for one future instead of for all that may end.

aiokafka's loop waits with `asyncio.wait`, which adds and removes a callback at every task and future, and it turns
twice for each fetch: once to wake the caller that waits for records, and once when that caller has taken them. Here a
fetch wakes that caller itself, and the loop turns when there is something to ask for.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from itertools import chain
from typing import Any

import structlog
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError

log = structlog.get_logger(__name__)

# Tansu gives no record to a fetch that waits for 0.
SHORTEST_WAIT_MS = 1
_LONGEST_WAIT_MS = 1_000


def wait_after(*, found: bool, is_behind: bool, wait_ms: int) -> int:
    """Return the wait of the next fetch, in ms: longer each time that the broker gave nothing although it has more.

    Tansu searches for records within the wait, and returns none if a long log or a busy machine makes that longer: of
    6,000 batches none within 2 ms, most within 8. With a constant short wait the same fetch would return nothing for
    ever. A sufficient wait is kept, because the log only grows; it shrinks again when there is nothing to read, because
    a signal is not noticed before the fetch returns.
    """
    if found:
        return wait_ms
    return min(2 * wait_ms, _LONGEST_WAIT_MS) if is_behind else max(wait_ms // 2, SHORTEST_WAIT_MS)


class LoopedFetcher(fetcher.Fetcher):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's fetcher with this loop; `test_fetch_loop.py` fails when aiokafka's changes."""

    # Done when the loop should turn.
    _wait_consume_future: "asyncio.Future[None]"
    _pending_tasks: set["asyncio.Task[bool]"]

    def wake_caller(self) -> None:
        """Tell who waits for records that there are some, or an error. It takes them before the loop turns."""
        for waiter in self._fetch_waiters:
            self._notify(waiter)

    async def wait_for_records(self, timeout_s: float) -> None:
        """Return once there are records, or after this many seconds.

        Raises:
            KafkaError: the group coordinator refused us.
        """
        await self._wait(self._create_fetch_waiter(), timeout_s)

    async def _fetch_requests_routine(self) -> None:
        try:
            assignment: Any = None
            while True:
                while assignment is None or not assignment.active:
                    assignment = await self._next_assignment()
                self._wait_consume_future = self._loop.create_future()
                fetches, resets, timeout_s, lacks_metadata, resumes = self._get_actions_per_node(assignment)
                for node, request in fetches:
                    self._start(node, self._proc_fetch_request(assignment, node, request))
                for node, partitions in resets.items():
                    self._start(node, self._update_fetch_positions(assignment, node, partitions))
                if lacks_metadata or resumes:
                    others = [self._client.force_metadata_update()] if lacks_metadata else []
                    await asyncio.wait(
                        set(chain([self._wait_consume_future], resumes, others)),
                        timeout=timeout_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                else:
                    await self._wait(self._wait_consume_future, timeout_s)
                ended = [task for task in self._pending_tasks if task.done()]
                self._pending_tasks.difference_update(ended)
                for task in ended:
                    # Raises what it failed with.
                    task.result()
        except asyncio.CancelledError:
            pass
        except Exception as error:
            log.exception("fetch_loop_failed")
            raise KafkaError("Unexpected error during data retrieval") from error

    async def _next_assignment(self) -> Any:
        """End what is under way for the last assignment, and return the next one; None if it has to be asked again."""
        for task in list(self._pending_tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._pending_tasks.clear()
        self._records.clear()
        subscription = self._subscriptions.subscription
        if subscription is None or subscription.assignment is None:
            try:
                await self._subscriptions.wait_for_assignment()
            except KafkaError:
                # The caller gets it.
                return None
        assignment = self._subscriptions.subscription.assignment
        if assignment is not None:
            assignment.unassign_future.add_done_callback(lambda _: self._notify(self._wait_consume_future))
        return assignment

    def _start(self, node: Any, work: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.create_task(work)
        self._pending_tasks.add(task)
        self._in_flight.add(node)

        def on_done(done: "asyncio.Task[bool]") -> None:
            self._in_flight.discard(node)
            self._notify(self._wait_consume_future)
            if not done.cancelled() and done.exception() is None and done.result():
                self.wake_caller()

        task.add_done_callback(on_done)

    async def _wait(self, future: "asyncio.Future[None]", timeout_s: float) -> None:
        """Return once the future is done, which it is after this many seconds at the latest."""
        timer = self._loop.call_later(timeout_s, self._notify, future)
        try:
            await future
        finally:
            timer.cancel()
