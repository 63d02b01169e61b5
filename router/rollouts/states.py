"""The states of a rollout: how a decision or a command enters one, and the split that it needs. Pure."""

import math
from typing import TYPE_CHECKING

from msgspec.structs import replace

from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import MAX_EVENTS, MAX_TEXT, Action, Command, Phase, RolloutEvent, RolloutState, Step
from inferlane.contracts.rollout_actions import refusal_of
from inferlane.contracts.traffic_split import Shadow, Split
from router.rollouts.evidence import start_step
from router.rollouts.evidence_record import from_record, to_record

if TYPE_CHECKING:
    from collections.abc import Callable


def pause(state: RolloutState, reason: str, now_s: float, by: str = "") -> RolloutState:
    """Return the state paused: the split stays as it is and the checks go on."""
    if state.phase is Phase.PAUSED:
        return state
    return enter(replace(state, paused_from=state.phase), Phase.PAUSED, reason, now_s, by)


def roll_back(state: RolloutState, reason: str, now_s: float, by: str = "") -> RolloutState:
    """Return the state on its way to weight 0."""
    return enter(state, Phase.ROLLING_BACK, reason, now_s, by)


def resume(state: RolloutState, reason: str, now_s: float, by: str = "", *, generation: int) -> RolloutState:
    """Return a paused state where it was before, with a fresh wait, over any split that somebody made meanwhile.

    A check that has failed is accepted: it does not pause the rollout again.
    """
    resumed = replace(
        state,
        is_split_theirs=False,
        generation=max(state.generation, generation),
        step_since_s=now_s,
        accepted=tuple(sorted({*state.accepted, *(one.check for one in state.verdicts if one.is_failed)})),
    )
    return enter(resumed, state.paused_from or Phase.STEPPING, reason or "resumed", now_s, by)


def promote(state: RolloutState, reason: str, now_s: float, by: str = "", *, generation: int) -> RolloutState:
    """Return the state with all traffic on the candidate, still watched while it bakes."""
    generation = max(state.generation, generation)
    ours = replace(state, is_split_theirs=False, generation=generation, is_promoted_by_hand=True)
    return enter(ours, Phase.BAKING, reason or "promoted by hand", now_s, by)


def begin(state: RolloutState, reason: str, now_s: float, by: str = "") -> RolloutState:
    """Return a draft that begins to prepare."""
    return enter(state, Phase.PREPARING, reason or "started", now_s, by)


def enter_step(state: RolloutState, number: int, reason: str, now_s: float) -> RolloutState:
    phase = Phase.SHADOWING if state.spec.steps[number].shadow else Phase.STEPPING
    return _with_fresh_count(enter(replace(state, step=number), phase, reason, now_s), now_s)


def enter_bake(state: RolloutState, reason: str, now_s: float) -> RolloutState:
    return _with_fresh_count(enter(state, Phase.BAKING, reason, now_s), now_s)


def _with_fresh_count(state: RolloutState, now_s: float) -> RolloutState:
    learnt = start_step(from_record(state.evidence))
    evidence = to_record(learnt, through_slot=state.evidence.through_slot)
    return replace(state, step_since_s=now_s, requests_in_step=0, evidence=evidence)


def enter(state: RolloutState, phase: Phase, reason: str, now_s: float, by: str = "") -> RolloutState:
    # A person's reason of the full length, and what is added to it: a longer text makes the record unreadable.
    reason = reason[:MAX_TEXT]
    moved = replace(state, phase=phase, phase_since_s=now_s, reason=reason, waits_for="")
    event = RolloutEvent(
        number=state.events[-1].number + 1 if state.events else 1,
        at_s=now_s,
        phase=phase,
        was=state.phase,
        step=moved.step,
        weight=weight_of(moved),
        reason=reason,
        by=by,
        requests=state.requests_in_step,
        verdicts=state.verdicts,
    )
    events = (*state.events, event)
    if len(events) > MAX_EVENTS:
        events = (events[0], *events[-(MAX_EVENTS - 1) :])
    return replace(moved, events=events)


def weight_of(state: RolloutState) -> float:
    """Return the share of the traffic of its lanes that the candidate gets in this state."""
    phase = state.paused_from or Phase.STEPPING if state.phase is Phase.PAUSED else state.phase
    if phase in {Phase.BAKING, Phase.PROMOTED}:
        return 1.0
    return _step_of(state).weight if phase is Phase.STEPPING else 0.0


def moved_in_time(state: RolloutState, by_s: float, *, slot_s: int) -> RolloutState:
    """Return the state as if its phase and its step had begun `by_s` later; slots that come again count again."""
    through_slot = state.evidence.through_slot + min(0, math.floor(by_s / slot_s))
    return replace(
        state,
        evidence=replace(state.evidence, through_slot=through_slot),
        phase_since_s=state.phase_since_s + by_s,
        step_since_s=state.step_since_s + by_s,
        revision=state.revision + 1,
    )


def had_requests(state: RolloutState) -> bool:
    """Return whether the candidate has had requests of the rollout, or copies of them."""
    return any(event.weight > 0 or event.phase is Phase.SHADOWING for event in state.events)


def _step_of(state: RolloutState) -> Step:
    return state.spec.steps[min(state.step, len(state.spec.steps) - 1)]


def split_of(state: RolloutState, now_s: float) -> Split:
    """The split that a state asks for. It follows from the state alone, so a controller that takes over writes it."""
    spec, weight = state.spec, weight_of(state)
    phase = state.paused_from or state.phase if state.phase is Phase.PAUSED else state.phase
    weights = {version: share for version, share in ((spec.stable, 1 - weight), (spec.candidate, weight)) if share > 0}
    is_over = state.phase.is_final
    # In lanes outside the rollout the stable version answers until the candidate is promoted.
    others = [] if is_over or weight == 0 else [lane for lane in Lane if lane not in spec.lanes]
    shadow = _step_of(state).shadow if phase is Phase.SHADOWING else 0.0
    return Split(
        model=spec.model,
        weights=weights,
        changed_s=now_s,
        lane_weights={lane: {spec.stable: 1.0} for lane in others},
        rollout="" if is_over else state.id,
        generation=state.generation,
        shadow=Shadow(version=spec.candidate, share=shadow) if shadow else None,
        fallback=spec.stable if spec.fallback == "stable" and not is_over else "",
    )


def is_same(held: Split, wanted: Split) -> bool:
    """Return whether a split asks for the same as another, whenever it was written."""
    return replace(held, changed_s=0.0) == replace(wanted, changed_s=0.0)


def needed_split(state: RolloutState, in_force: Split | None, now_s: float) -> Split | None:
    """Return the split that has to be written for a state; None if the one in force is right, or not ours to change."""
    if state.phase is Phase.DRAFT or state.is_split_theirs:
        return None
    # After the end of a rollout anybody may change its split.
    is_ours = not state.phase.is_final or (in_force is not None and in_force.rollout == state.id)
    wanted = split_of(state, now_s)
    return wanted if is_ours and (in_force is None or not is_same(in_force, wanted)) else None


def start(
    command: Command, *, offset: int, held: Split | None, other: RolloutState | None, now_s: float
) -> RolloutState:
    """Return the state of a new rollout; it has failed where `other` of the same model is under way.

    Raises:
        ValueError: the command has no spec.
    """
    if command.spec is None:
        raise ValueError(f"the command {command.id} starts a rollout and says not which")
    draft = RolloutState(
        id=command.rollout,
        spec=command.spec,
        generation=1 + (0 if held is None else held.generation),
        created_s=now_s,
        commands_through=offset,
    )
    if other is not None:
        return enter(draft, Phase.FAILED, f"the rollout {other.id} of the same model is not over", now_s, command.by)
    return begin(draft, command.reason, now_s, command.by)


def obey(state: RolloutState, command: Command, *, offset: int, held: Split | None, now_s: float) -> RolloutState:
    """Return the state after a command, which counts once; one that does not apply changes nothing but that."""
    if offset <= state.commands_through:
        return state
    state = replace(state, commands_through=offset, revision=state.revision + 1)
    is_done = (command.action, state.phase) in {
        (Action.PROMOTE, Phase.BAKING),
        (Action.ABORT, Phase.ROLLING_BACK),
        (Action.PAUSE, Phase.PAUSED),
    }
    if is_done or refusal_of(state, command.action):
        return state
    reason, by = command.reason, command.by
    generation = 1 + held.generation if state.is_split_theirs and held is not None else state.generation
    do: dict[Action, Callable[[], RolloutState]] = {
        Action.PAUSE: lambda: pause(state, reason or "paused by hand", now_s, by),
        Action.RESUME: lambda: resume(state, reason, now_s, by, generation=generation),
        Action.PROMOTE: lambda: promote(state, reason, now_s, by, generation=generation),
        Action.ABORT: lambda: roll_back(state, reason or "aborted by hand", now_s, by),
    }
    return do[command.action]() if command.action in do else state
