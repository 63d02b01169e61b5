"""The controller of a rollout: it decides the next state and split from the specification and the window. Pure.

`Preparing → Shadowing → Stepping(i) → Baking → Promoted`, and from each of them `Paused`, `RollingBack → RolledBack`
or `Failed`. Checks run in every phase in which the candidate has traffic, also in a pause. Without data there is no
verdict: the step waits, reports what is missing, and pauses after `max_wait_s`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec.structs import replace

from inferlane.contracts.rollout import Check, Evidence, Phase, RolloutEvent, RolloutState, Then, Verdict
from inferlane.contracts.traffic_split import Split
from inferlane.errors import DecodeError
from router.rollouts.checks import judge, then_of
from router.rollouts.evidence import CopyCountOf, CountOf, LaneSlot, Learnt, fold
from router.rollouts.evidence_record import from_record, to_record
from router.rollouts.guards import CandidatePool, guard
from router.rollouts.outside_checks import Reading
from router.rollouts.states import (
    enter,
    enter_bake,
    enter_step,
    is_same,
    needed_split,
    pause,
    roll_back,
    split_of,
    weight_of,
)

# How long a rollback waits for its split, for a move of the backlog and for the retries before it ends anyway.
_END_WITHIN_S = 600.0
_WITH_TRAFFIC = frozenset({Phase.SHADOWING, Phase.STEPPING, Phase.BAKING, Phase.PAUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The observations since the last slot of the state's evidence.

    `closed` are slots that change no more, `open` those that may; `through_slot` is the newest closed one. `split` is
    the one in force. `is_backlog_done` says that nothing of the candidate's backlog is left to move, `retried` how
    many requests that it failed are answered by the stable version, None while that is not done; `left` is what the
    candidate has yet to work off. `in_doubt` are
    requests that were routed and may not be in the slots yet, or in another one.
    """

    closed: Sequence[LaneSlot] = ()
    open: Sequence[LaneSlot] = ()
    through_slot: int = -1
    pool: CandidatePool = field(default_factory=CandidatePool)
    split: Split | None = None
    is_backlog_done: bool = False
    retried: int | None = 0
    left: int = 0
    in_doubt: int = 0
    readings: Mapping[Check, Reading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next state, the split to write (None: the one in force is right) and what happened.

    `sends_probe`: the candidate's probe has to be in its topic once the state is written.
    """

    state: RolloutState
    split: Split | None
    events: tuple[RolloutEvent, ...]
    sends_probe: bool = False


def step(state: RolloutState, window: Window, now_s: float) -> Decision:
    """Decide once. The same state and window give the same decision; a final state needs no further decision."""
    if state.phase.is_final or state.phase is Phase.DRAFT:
        return _decided(state, state, window, now_s)
    before = state
    state, known = _readable(state, now_s)
    learnt = fold(known, window.closed, state.spec.checks)
    now = fold(learnt, window.open, state.spec.checks)
    verdicts: tuple[Verdict, ...] = judge(
        now, state.spec, window.readings, weight=weight_of(state), in_doubt=window.in_doubt
    )
    through_slot = max(window.through_slot, state.evidence.through_slot)
    state = replace(
        state,
        evidence=to_record(learnt, through_slot=through_slot),
        verdicts=verdicts,
        requests_in_step=int(now.counts[CountOf.REQUESTS_IN_STEP]),
        failed_requests=int(now.counts[CountOf.FAILED] + now.shadows[CopyCountOf.FAILED]),
    )
    return _decided(before, _next(state, window, now, now_s), window, now_s)


def _readable(state: RolloutState, now_s: float) -> tuple[RolloutState, Learnt]:
    """The state with what it has learnt. Evidence of another release that cannot be read is collected anew.

    The step begins again then. With all traffic on the candidate there is nothing left to compare: a person decides.
    """
    try:
        return state, from_record(state.evidence)
    except DecodeError as error:
        lost = str(error)
    empty = replace(state, evidence=Evidence(through_slot=state.evidence.through_slot), requests_in_step=0)
    if state.phase not in _WITH_TRAFFIC:
        return empty, Learnt()
    if state.phase is not Phase.PAUSED and weight_of(state) >= 1:
        return pause(empty, f"{lost}; nothing is left to compare the candidate with", now_s), Learnt()
    reason = f"{lost}; it is collected anew, and the step begins again"
    return enter(replace(empty, step_since_s=now_s), state.phase, reason, now_s), Learnt()


def _next(state: RolloutState, window: Window, learnt: Learnt, now_s: float) -> RolloutState:
    if state.phase is Phase.ROLLING_BACK:
        return _rolling_back(state, window, now_s)
    if _is_hand_made(state, window.split):
        reason = f"somebody set the traffic split of {state.spec.model} by hand; resume takes it back, abort leaves it"
        return replace(pause(state, reason, now_s), is_split_theirs=True)
    if state.phase in _WITH_TRAFFIC and not state.is_split_theirs and not state.awaits_probe:
        stopped = _stopped(state, window.pool, learnt, now_s)
        if stopped is not None:
            return stopped
    return _go_on(state, window, learnt, now_s)


def _stopped(state: RolloutState, pool: CandidatePool, learnt: Learnt, now_s: float) -> RolloutState | None:
    """Return the state rolled back or paused by a guard or a check; None if nothing stands against it."""
    guarded = guard(state, pool, learnt)
    if guarded is not None:
        return roll_back(state, guarded, now_s)
    failed = [one for one in state.verdicts if one.is_failed and one.check not in state.accepted]
    for verdict in failed:
        if then_of(verdict.check, state.spec.checks[verdict.check]) is Then.ROLL_BACK:
            return roll_back(state, f"{verdict.check}: {verdict.says}", now_s)
    if failed and state.phase is not Phase.PAUSED:
        return pause(state, f"{failed[0].check}: {failed[0].says}", now_s)
    return None


def _go_on(state: RolloutState, window: Window, learnt: Learnt, now_s: float) -> RolloutState:
    match state.phase:
        case Phase.PREPARING:
            return _preparing(state, window.pool, now_s)
        case Phase.SHADOWING | Phase.STEPPING:
            return _stepping(state, learnt, now_s)
        case Phase.BAKING if not _is_in_force(state, window.split, now_s):
            # The controller may have been down since its last decision: only watched time counts.
            return replace(state, phase_since_s=now_s, waits_for="the split to be in force")
        case Phase.BAKING:
            return _baking(state, now_s)
        case _:
            return state


def _baking(state: RolloutState, now_s: float) -> RolloutState:
    baked_s = now_s - state.phase_since_s
    left_s, unknown = state.spec.bake_s - baked_s, _unknown(state)
    if not state.requests_in_step and not state.is_promoted_by_hand:
        unknown = ["no request with all traffic on the candidate", *unknown]
    if left_s > 0:
        return replace(state, waits_for=f"{left_s:.0f} s more with all traffic")
    if not unknown:
        return enter(state, Phase.PROMOTED, f"{state.spec.bake_s:g} s with all traffic and no alarm", now_s)
    if -left_s > state.spec.each.max_wait_s:
        return pause(state, f"no verdict in {baked_s:.0f} s: {unknown[0]}", now_s)
    return replace(state, waits_for=unknown[0])


def _is_in_force(state: RolloutState, split: Split | None, now_s: float) -> bool:
    return split is not None and is_same(split, split_of(state, now_s))


def _is_hand_made(state: RolloutState, split: Split | None) -> bool:
    return (
        split is not None
        and not state.is_split_theirs
        and split.rollout != state.id
        # An API older than rollouts writes no generation.
        and (split.generation >= state.generation or (split.generation == 0 and split.changed_s > state.created_s))
    )


def _preparing(state: RolloutState, pool: CandidatePool, now_s: float) -> RolloutState:
    candidate = state.spec.candidate
    if pool.probe_error:
        return enter(state, Phase.FAILED, f"{candidate} failed its probe, a row of zeros: {pool.probe_error}", now_s)
    if pool.is_probed and pool.workers and not pool.is_halted:
        return enter_step(state, 0, "a worker of the candidate is ready and answered its probe", now_s)
    sent = f"{datetime.fromtimestamp(state.phase_since_s, UTC):%H:%M} UTC"
    if pool.is_halted:
        missing = f"{candidate}: its worker halted, and tries the probe after its pause"
    elif pool.is_probed:
        missing = f"a worker of {candidate} to be ready; its probe of {sent} was answered"
    elif pool.workers:
        missing = f"{candidate} to answer its probe of {sent}"
    else:
        missing = f"the first worker of {candidate}: its probe of {sent} is not answered"
    if now_s - state.phase_since_s > state.spec.prepare_s:
        return pause(state, f"waited {state.spec.prepare_s:g} s for {missing}", now_s)
    return replace(state, waits_for=missing)


def _stepping(state: RolloutState, learnt: Learnt, now_s: float) -> RolloutState:
    asked = state.spec.steps[state.step]
    needed = state.spec.each.min_requests if asked.min_requests is None else asked.min_requests
    least_s = state.spec.each.min_time_s if asked.min_time_s is None else asked.min_time_s
    in_step_s = now_s - state.step_since_s
    missing = []
    if state.requests_in_step < needed:
        missing.append(f"{state.requests_in_step:,} of {needed:,} requests")
    if in_step_s < least_s:
        missing.append(f"{least_s - in_step_s:.0f} s more")
    missing += _unknown(state)
    if not missing and _next_weight(state) >= 1 > asked.weight:
        missing += _not_shown(state, learnt)
    if not missing:
        return _advance(state, learnt, now_s)
    waits_for = ", ".join(missing)
    if in_step_s > max(state.spec.each.max_wait_s, least_s):
        return pause(state, f"no verdict in {in_step_s:.0f} s: {waits_for}", now_s)
    return replace(state, waits_for=waits_for)


def _unknown(state: RolloutState) -> list[str]:
    """Return the Prometheus query that has no value: nobody can say that nothing is wrong."""
    metric = next((one for one in state.verdicts if one.check is Check.PROMETHEUS), None)
    return [f"{metric.check}: {metric.says}"] if metric is not None and metric.candidate is None else []


def _not_shown(state: RolloutState, learnt: Learnt) -> list[str]:
    """Return what is missing to say that the candidate is not worse by more than the margin."""
    enough = state.spec.each.promote_after
    shown = {Check.ERRORS} | ({Check.QUALITY, Check.REWARD} - set(state.accepted))
    if enough and learnt.counts[CountOf.REQUESTS] >= enough:
        shown -= {Check.ERRORS}
    return [f"{one.check}: {one.says}" for one in state.verdicts if one.check in shown and not one.is_enough]


def _next_weight(state: RolloutState) -> float:
    later = state.spec.steps[state.step + 1 :]
    return later[0].weight if later else 1.0


def _advance(state: RolloutState, learnt: Learnt, now_s: float) -> RolloutState:
    reason = f"{state.requests_in_step:,} requests without an alarm"
    enough = state.spec.each.promote_after
    shown = [verdict for verdict in state.verdicts if verdict.check is Check.ERRORS and verdict.is_enough]
    if shown:
        reason += f"; errors {shown[0].says}"
    elif enough and learnt.counts[CountOf.REQUESTS] >= enough:
        reason += f"; {enough:,} requests are enough by the spec"
    if state.step + 1 < len(state.spec.steps):
        return enter_step(state, state.step + 1, reason, now_s)
    return enter_bake(state, reason, now_s)


def _rolling_back(state: RolloutState, window: Window, now_s: float) -> RolloutState:
    if _is_hand_made(state, window.split):
        state = replace(state, is_split_theirs=True)
    is_in_force = state.is_split_theirs or _is_in_force(state, window.split, now_s)
    if is_in_force and window.is_backlog_done and window.retried is not None:
        reason = state.reason
        if window.retried:
            reason += f"; {window.retried:,} requests that it failed were sent to {state.spec.stable}"
        if window.left:
            reason += f"; {window.left:,} requests still wait for {state.spec.candidate}, which goes on with them"
        return enter(state, Phase.ROLLED_BACK, reason, now_s)
    if now_s - state.phase_since_s > _END_WITHIN_S:
        reason = f"{state.reason}; after {_END_WITHIN_S:g} s it is not all cleared up: {state.waits_for}"
        return enter(state, Phase.ROLLED_BACK, reason, now_s)
    if not is_in_force:
        return replace(state, waits_for="the split to be in force")
    missing = "what it failed to be sent again" if window.is_backlog_done else "the candidate's backlog"
    return replace(state, waits_for=missing)


def _decided(before: RolloutState, after: RolloutState, window: Window, now_s: float) -> Decision:
    number = before.events[-1].number if before.events else 0
    events = tuple(event for event in after.events if event.number > number)
    split = needed_split(after, window.split, now_s)
    if after is not before:
        after = replace(after, revision=before.revision + 1)
    sends_probe = after.phase is Phase.PREPARING and not window.pool.is_probed
    return Decision(state=after, split=split, events=events, sends_probe=sends_probe)
