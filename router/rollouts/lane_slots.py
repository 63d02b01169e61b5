"""What the controller sees: slots of both versions, lane by lane, from the outcome windows. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inferlane.contracts.lane_tallies import LaneTally
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import RolloutState
from inferlane.contracts.windows import WORKER_SILENT_S, Slot
from router.rollouts.evidence import LaneSlot
from router.rollouts.guards import CandidatePool
from router.rollouts.states import weight_of

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import OutcomeSettings

# How long after its end a slot may still change: summaries come every second, over a broker that may be busy.
_LATE_S = 5.0
# The slots after the newest closed one that may be open: those that are late, the present one, and one for a clock that
# is ahead. Later ones are from before the clock was set back.
_SLOTS_AHEAD = math.ceil(_LATE_S) + 3
# The slots after a change of the split in which requests from before the change are still answered.
_SLOTS_TO_SETTLE = 2


def lane_slots(
    state: RolloutState, candidate: Sequence[Slot], stable: Sequence[Slot], *, slot_s: int, now_s: float
) -> tuple[list[LaneSlot], list[LaneSlot], int]:
    """Slots that the state has not learnt from: those that change no more, those that may, and the newest closed one.

    A slot that is closed and has no traffic is passed, so that nothing of it is added later.
    """
    ours, theirs = {slot.index: slot for slot in candidate}, {slot.index: slot for slot in stable}
    newest_closed = int((now_s - _LATE_S) // slot_s) - 1
    through = state.evidence.through_slot
    closed: list[LaneSlot] = []
    opened: list[LaneSlot] = []
    for index in sorted(ours.keys() | theirs.keys()):
        if not through < index <= newest_closed + _SLOTS_AHEAD:
            continue
        found = [
            _lane_slot(state, index, lane, ours.get(index), theirs.get(index), slot_s=slot_s)
            for lane in state.spec.lanes
        ]
        found = _with_copies(found, _copies(state.id, ours.get(index)))
        if index <= newest_closed:
            closed += found
        else:
            # The versions do not report at the same moment: a late report does not mean a smaller share.
            opened += [replace(slot, weight=None) for slot in found]
    return closed, opened, max(through, newest_closed)


def _lane_slot(
    state: RolloutState, index: int, lane: Lane, ours: Slot | None, theirs: Slot | None, *, slot_s: int
) -> LaneSlot:
    from_s, weight = index * slot_s, weight_of(state)
    has_settled = from_s >= state.step_since_s + _SLOTS_TO_SETTLE * slot_s
    return LaneSlot(
        index=index,
        candidate=_tally(state.id, lane, ours) or LaneTally(rollout=state.id, lane=lane),
        stable=_tally(state.id, lane, theirs) or LaneTally(rollout=state.id, lane=lane),
        weight=weight if has_settled and 0 < weight < 1 else None,
        is_of_step=from_s + slot_s > state.step_since_s,
    )


def _tally(rollout: str, lane: Lane, slot: Slot | None) -> LaneTally | None:
    tallies = () if slot is None else slot.lanes
    return next((one for one in tallies if one.identity == (rollout, lane, False)), None)


def _copies(rollout: str, slot: Slot | None) -> LaneTally | None:
    tallies = () if slot is None else slot.lanes
    return next((one for one in tallies if one.rollout == rollout and one.is_shadow), None)


def _with_copies(slots: list[LaneSlot], copies: LaneTally | None) -> list[LaneSlot]:
    """Return the slots of the lanes, the busiest of the stable version with the copies.

    Copies of requests of either lane wait in the bulk lane: their own lane says nothing of what to compare them with.
    """
    if copies is None:
        return slots
    busiest = max(range(len(slots)), key=lambda at: slots[at].stable.requests)
    return [replace(slot, shadow=copies) if at == busiest else slot for at, slot in enumerate(slots)]


def in_doubt(
    state: RolloutState,
    versions: Sequence[Sequence[Slot]],
    *,
    outcomes: "OutcomeSettings",
    lag_records: int | None = None,
) -> int:
    """Return the requests that were routed and may be in no slot yet, or in another slot than the other version's.

    Those that wait, and those of two summaries at the busiest: a version reports once an interval, and not at the
    moment at which the other one does.
    """
    requests: Counter[int] = Counter()
    for slots in versions:
        for slot in slots:
            requests[slot.index] += sum(tally.requests for tally in slot.lanes if tally.rollout == state.id)
    late = max(requests.values(), default=0) * min(1.0, 2 * outcomes.interval_s / outcomes.slot_s)
    return math.ceil(late) + (lag_records or 0)


def workers_of(candidate: Sequence[Slot], *, since_s: float, now_s: float) -> CandidatePool:
    """What the candidate's workers said of themselves; errors in a row only of what they said after `since_s`."""
    newest: dict[str, tuple[float, bool, int]] = {}
    for slot in candidate:
        for worker, use in slot.workers.items():
            # What was reported before the clock was set back says nothing of the worker now.
            if use.newest_s > now_s + WORKER_SILENT_S:
                continue
            if use.newest_s >= newest.get(worker, (0.0, False, 0))[0]:
                newest[worker] = (use.newest_s, use.is_halted, use.failed_in_a_row)
    heard = [one for one in newest.values() if one[0] > now_s - WORKER_SILENT_S]
    return CandidatePool(
        workers=len(heard),
        is_halted=any(is_halted for _, is_halted, _ in heard),
        failed_in_a_row=max((errors for at_s, _, errors in heard if at_s > since_s), default=0),
    )
