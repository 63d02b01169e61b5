"""Run the controller beside the outcome windows: in the one router that reads the outcomes.

A decision is written before its actions (the split, the backlog), and the actions follow from the written state alone:
if the host is killed at any line, its successor goes on from the state. A successor first writes every state again
under a larger generation; every table then ignores what its predecessor may still write.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol

import structlog
from msgspec.structs import replace

from inferlane.contracts.rollout import Action, RolloutState
from inferlane.errors import InferlaneError
from inferlane.runtime.metrics.router_metrics import ROLLOUT_ERRORS
from inferlane.runtime.retry import back_off
from router.rollouts.candidate_watch import CandidateWatch
from router.rollouts.clearance import Clearance, left_of
from router.rollouts.controller import Window, step
from router.rollouts.decision_writer import RolloutWriter, forget_rollouts, show_rollouts
from router.rollouts.lane_slots import in_doubt, lane_slots
from router.rollouts.notices import has_told, last_number
from router.rollouts.outside_reader import OutsideReader
from router.rollouts.states import moved_in_time, needed_split, obey, start

if TYPE_CHECKING:
    from inferlane.contracts.traffic_split import Split
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.rollout_table import GivenCommand, RolloutTable
    from inferlane.runtime.service_settings import OutcomeSettings
    from inferlane.runtime.split_table import SplitTable
    from router.version_windows import VersionWindows


log = structlog.get_logger(__name__)

# How often a state without a new decision is written: for readers, and so that evidence outlives the windows.
_WRITE_S = 5.0
_LONGEST_BACK_OFF_S = 60.0
# The wall clock may be set; the states' times follow it once it differs by so much from the time that has passed.
_CLOCK_SET_S = 5.0


class Outcomes(Protocol):
    """The outcome windows of this router, and whether it is the one that reads the outcomes."""

    @property
    def windows(self) -> "VersionWindows": ...

    @property
    def owns_outcomes(self) -> bool: ...

    @property
    def assignments(self) -> int: ...


class RolloutHost:
    """Decides on every rollout that is not over, once an interval. Used from one event loop."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        outcomes_settings: "OutcomeSettings",
        *,
        outcomes: Outcomes,
        rollouts: "RolloutTable",
        splits: "SplitTable",
        writer: RolloutWriter,
        read_to_end: Callable[[], Awaitable[None]],
        clock: "Clock",
        clearance: Clearance,
        outside: OutsideReader,
        watch: CandidateWatch,
    ) -> None:
        """`read_to_end` returns when both tables hold what is in their topics, and raises if they cannot."""
        self._outcomes_settings = outcomes_settings
        self._read_to_end = read_to_end
        self._outcomes = outcomes
        self._rollouts = rollouts
        self._splits = splits
        self._writer = writer
        self._clock = clock
        self._clearance = clearance
        self._outside = outside
        self._watch = watch
        # The states of this owner's term, as they were decided last; and when each was written.
        self._term = -1
        self._held: dict[str, RolloutState] = {}
        self._written_s: dict[str, float] = {}
        self._replaced: set[str] = set()
        self._clock_offset_s = self._clock_offset()

    async def run(self) -> NoReturn:
        """Decide every `outcome_interval_s` until cancelled. An error of ours stops no routing: it begins anew."""
        interval_s = self._outcomes_settings.interval_s
        waits = back_off(interval_s, _LONGEST_BACK_OFF_S)
        wait_s = interval_s
        try:
            while True:
                await asyncio.sleep(wait_s)
                try:
                    await self.decide()
                    waits, wait_s = back_off(interval_s, _LONGEST_BACK_OFF_S), interval_s
                except Exception:
                    wait_s = next(waits)
                    self._term = -1
                    ROLLOUT_ERRORS.inc()
                    log.exception("rollout_host_failed", retry_s=round(wait_s, 3))
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel its tasks; a successor starts them again."""
        await self._clearance.close()
        await self._outside.close()
        await self._watch.close()

    async def decide(self) -> None:
        """Decide once on each command and each rollout, if this router is the one that does.

        Raises:
            Exception: an error of ours met a rollout; the others were decided on.
        """
        if not self._outcomes.owns_outcomes:
            if self._term >= 0:
                self._term = -1
                forget_rollouts()
            return
        passed_over: dict[str, Exception] = {}
        try:
            if self._term != self._outcomes.assignments:
                await self._begin_term(self._outcomes.assignments)
            await self._take_over()
            await self._follow_clock()
            for given in self._rollouts.commands:
                await self._alone(given.command.rollout, partial(self._obey, given), passed_over)
            for state in list(self._held.values()):
                await self._alone(state.id, partial(self._decide, state), passed_over)
        except InferlaneError as error:
            log.warning("rollouts_not_decided", error=str(error))
        show_rollouts(self._rollouts.states, now_s=self._clock.now_s())
        for met in passed_over.values():
            if not isinstance(met, InferlaneError):
                raise met

    async def _alone(
        self, rollout: str, work: Callable[[], Awaitable[None]], passed_over: dict[str, Exception]
    ) -> None:
        """Do the work for one rollout; after an error it is passed over this time, and the others are not."""
        if rollout in passed_over:
            return
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - noted, and raised once the others were decided on
            log.warning("rollout_not_decided", rollout=rollout, error=repr(error))
            passed_over[rollout] = error

    async def _begin_term(self, term: int) -> None:
        """Read the decisions of the last owner: no decision may use an older state."""
        await self._read_to_end()
        self._term = term
        for state in list(self._held.values()):
            if (known := self._rollouts.find(state.id)) is None or self._is_done(known):
                self._forget(state)
        self._held.clear()
        self._replaced.clear()

    async def _take_over(self) -> None:
        """Write the states of other hosts again under a larger generation: from then on they are ours."""
        self._replaced.intersection_update(state.id for state in self._rollouts.states)
        for state in self._rollouts.states:
            ours = self._held.get(state.id)
            if ours is not None and state.generation > ours.generation:
                log.warning("rollout_taken_over", rollout=state.id, generation=state.generation)
                self._forget(ours)
                self._replaced.add(state.id)
            if state.id in self._held or state.id in self._replaced or self._is_done(state):
                continue
            split = self._splits.get(state.spec.model)
            generation = 1 + max(state.generation, 0 if split is None or state.is_split_theirs else split.generation)
            await self._write(replace(state, generation=generation, revision=state.revision + 1))

    async def _follow_clock(self) -> None:
        """Move the times of the states with a clock that was set, or that went on while this machine slept.

        Else a candidate would be promoted after a bake of which nobody saw a minute.
        """
        before_s, self._clock_offset_s = self._clock_offset_s, self._clock_offset()
        set_by_s = self._clock_offset_s - before_s
        if abs(set_by_s) < _CLOCK_SET_S:
            return
        log.warning("clock_was_set", by_s=round(set_by_s, 3))
        for state in [one for one in self._held.values() if not one.phase.is_final]:
            await self._write(moved_in_time(state, set_by_s, slot_s=self._outcomes_settings.slot_s))

    def _clock_offset(self) -> float:
        return self._clock.now_s() - self._clock.monotonic_s()

    def _is_done(self, state: RolloutState) -> bool:
        """Return whether nothing is left to do: the rollout is over, and so is its split, and who is to be told is."""
        split = self._splits.get(state.spec.model)
        return state.phase.is_final and has_told(state) and (split is None or split.rollout != state.id)

    async def _obey(self, given: "GivenCommand") -> None:
        command, now_s = given.command, self._clock.now_s()
        known = self._held.get(command.rollout) or self._rollouts.find(command.rollout)
        if known is not None:
            held, known = self._splits.get(known.spec.model), self._rollouts.on_this_topic(known)
            after = obey(known, command, offset=given.offset, held=held, now_s=now_s)
            if after is not known and not known.phase.is_final:
                await self._write(after)
                # At once: what else there is to look at, such as its backlog, may take long.
                await self._write_split(needed_split(after, held, now_s), over=held)
        elif command.action is Action.START and command.spec is not None:
            model = command.spec.model
            ours = [one for one in self._held.values() if one.spec.model == model and not one.phase.is_final]
            held, other = self._splits.get(model), ours[0] if ours else self._rollouts.under_way(model)
            await self._write(start(command, offset=given.offset, held=held, other=other, now_s=now_s))
        await self._writer.done(command)

    async def _decide(self, state: RolloutState) -> None:
        now_s, held = self._clock.now_s(), self._splits.get(state.spec.model)
        decision = step(state, await self._observe(state, now_s), now_s)
        after = decision.state
        self._held[state.id] = after
        for event in decision.events:
            log.info("rollout_moved", rollout=state.id, phase=event.phase, weight=event.weight, reason=event.reason)
        if decision.events or now_s - self._written_s.get(state.id, 0.0) >= _WRITE_S:
            await self._write(after)
        if decision.sends_probe:
            await self._watch.send_probe(after)
        await self._write_split(decision.split, over=held)
        if not has_told(after):
            after = await self._tell(after)
        if self._is_done(after):
            self._forget(after)

    def _forget(self, state: RolloutState) -> None:
        """Forget a rollout on which this host decides no more."""
        for held in (self._held, self._written_s):
            held.pop(state.id, None)
        for part in (self._outside, self._clearance, self._watch):
            part.forget(state)

    async def _tell(self, state: RolloutState) -> RolloutState:
        """The state once its receivers will be told of it; the state is written first, and nobody is told of less."""
        try:
            await self._writer.tell(state)
        except InferlaneError as error:
            # The notices are sent later; a topic that is unavailable must not stop a rollout.
            log.warning("rollout_not_told", rollout=state.id, error=str(error))
            return state
        told = replace(state, notified=last_number(state), revision=state.revision + 1)
        if state.phase.is_final:
            await self._write(told)
        self._held[state.id] = told
        return told

    async def _observe(self, state: RolloutState, now_s: float) -> Window:
        spec, windows, outcomes = state.spec, self._outcomes.windows, self._outcomes_settings
        candidate, stable = (windows.slots_of(spec.model, version) for version in (spec.candidate, spec.stable))
        closed, opened, through = lane_slots(state, candidate, stable, slot_s=outcomes.slot_s, now_s=now_s)
        pool = await self._watch.look(state, candidate, now_s=now_s)
        split = self._splits.get(spec.model)
        if self._splits.is_newest_passed_over(spec.model):
            # The newest record is from a replaced host; write ours again, or compaction keeps the wrong one.
            split = None if split is None else replace(split, generation=0, changed_s=0.0)
        is_backlog_done = self._clearance.is_backlog_done(state, pool, now_s=now_s)
        return Window(
            closed=closed,
            open=opened,
            through_slot=through,
            pool=pool,
            split=split,
            is_backlog_done=is_backlog_done,
            retried=self._clearance.retried(state, is_backlog_done=is_backlog_done),
            left=left_of(state, pool),
            readings=self._outside.of(state),
            in_doubt=in_doubt(state, (candidate, stable), outcomes=outcomes, lag_records=pool.lag_records),
        )

    async def _write_split(self, split: "Split | None", *, over: "Split | None") -> None:
        """Write a split over the one that it was decided on; the next decision goes by what was written since.

        A table that is behind lacks our own last split, and that of a person who set one after it.
        """
        if split is None:
            return
        await self._read_to_end()
        if self._splits.get(split.model) is over:
            await self._writer.split(split)
            log.info("rollout_split", model=split.model, rollout=split.rollout, weights=dict(split.weights))

    async def _write(self, state: RolloutState) -> None:
        await self._writer.state(state)
        self._held[state.id] = state
        self._written_s[state.id] = self._clock.now_s()
