"""What is left to do for a candidate that is rolled back: its backlog, and the requests that it failed."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from inferlane.contracts.rollout import Phase, RolloutSpec, RolloutState
from router.rollouts.states import had_requests

if TYPE_CHECKING:
    from router.rollouts.guards import CandidatePool

log = structlog.get_logger(__name__)
_Done = TypeVar("_Done")

# How long a rollback lets the candidate work its backlog off. A person who aborts waits for it, and so does the next
# rollout of the model; what is left then is moved, or left to the candidate.
_DRAIN_S = 30.0


class Clearance:
    """Clears up after each rollout that is rolled back, in tasks of its own. Used from one event loop.

    `reroute` moves what waits for the candidate to the stable version, and `retry_failed` has that one answer what the
    candidate failed, and returns how many; after an error they are called again.
    """

    def __init__(
        self,
        *,
        reroute: Callable[[RolloutSpec], Coroutine[None, None, object]],
        retry_failed: Callable[[RolloutState], Coroutine[None, None, int]],
    ) -> None:
        self._reroute = reroute
        self._retry_failed = retry_failed
        self._moves: dict[str, asyncio.Task[Any]] = {}
        self._retries: dict[str, asyncio.Task[Any]] = {}

    async def close(self) -> None:
        """Cancel its tasks; a successor starts them again."""
        tasks = [*self._moves.values(), *self._retries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self, state: RolloutState) -> None:
        """Forget a rollout on which nobody decides here; what was begun for it goes on to its end."""
        for tasks in (self._moves, self._retries):
            task = tasks.get(state.id)
            if task is not None:
                task.add_done_callback(partial(_ended, tasks, state.id))

    def is_backlog_done(self, state: RolloutState, pool: "CandidatePool", *, now_s: float) -> bool:
        """Whether nothing of the candidate's backlog is left to wait for; begins to move it where that is due."""
        if state.phase is not Phase.ROLLING_BACK:
            return False
        if not had_requests(state):
            # All that may wait for a candidate without traffic is its probe.
            return True
        how, has_time = state.spec.on_failure.backlog, now_s - state.phase_since_s <= _DRAIN_S
        if how == "drain":
            return pool.lag_records == 0 or not has_time
        if how == "auto" and has_time and not pool.is_halted and pool.workers != 0:
            return pool.lag_records == 0
        return _begun(
            self._moves, state, lambda: self._reroute(state.spec), on_error="rollout_backlog_not_moved"
        ).done()

    def retried(self, state: RolloutState, *, is_backlog_done: bool) -> int | None:
        """Return how many failed requests are with the stable version now, once its backlog is gone; None before."""
        if not state.spec.on_failure.retry_failed:
            return 0
        if not is_backlog_done:
            return None
        retry = _begun(self._retries, state, lambda: self._retry_failed(state), on_error="failed_requests_not_retried")
        return retry.result() if retry.done() else None


def _ended(tasks: dict[str, asyncio.Task[Any]], rollout: str, task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("clearance_not_finished", rollout=rollout, error=repr(task.exception()))
    if tasks.get(rollout) is task:
        del tasks[rollout]


def _begun(
    tasks: dict[str, asyncio.Task[_Done]],
    state: RolloutState,
    begin: Callable[[], Coroutine[None, None, _Done]],
    *,
    on_error: str,
) -> asyncio.Task[_Done]:
    """Return the task of a rollout; one that failed is logged as `on_error` and begun again."""
    task = tasks.get(state.id)
    if task is not None and task.done() and task.exception() is not None:
        log.warning(on_error, rollout=state.id, error=repr(task.exception()))
        task = None
    if task is None:
        task = tasks[state.id] = asyncio.create_task(begin(), name=f"clearance:{state.id}")
    return task


def left_of(state: RolloutState, pool: "CandidatePool") -> int:
    """Return the requests that a rollback leaves to the candidate to work off."""
    is_left = state.spec.on_failure.backlog == "drain" and had_requests(state)
    return (pool.lag_records or 0) if is_left else 0
