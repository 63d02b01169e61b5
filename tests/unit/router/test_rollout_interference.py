"""The state machine under everything that people, kills, clocks and brokers do to it, in any order.

A host is killed and another reads what was written, commands come twice, windows are lost or come again, the clock
jumps, and somebody sets the split by hand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from inferlane.contracts.lane_tallies import LaneTally, run_bin
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import (
    MAX_TEXT,
    Action,
    Check,
    CheckOptions,
    Command,
    Pace,
    Phase,
    RolloutSpec,
    RolloutState,
    Step,
    decode_rollout,
    default_checks,
    encode_rollout,
    key_of,
)
from inferlane.contracts.rollout_actions import refusal_of
from inferlane.contracts.traffic_split import Split
from router.rollouts.controller import Window, step
from router.rollouts.evidence import LaneSlot
from router.rollouts.evidence_record import from_record
from router.rollouts.guards import CandidatePool
from router.rollouts.states import begin, enter, obey, pause, promote, roll_back, split_of, start, weight_of

PROMOTE_AFTER = 900
STEPS = {
    "steps": (Step(weight=0.1), Step(weight=0.5)),
    "shadow": (Step(shadow=0.5), Step(weight=0.3)),
    "shadow alone": (Step(shadow=0.5),),
    "shadow, then all": (Step(shadow=0.5), Step(weight=1.0)),
}


def spec_of(steps: str, promote_after: int) -> RolloutSpec:
    return RolloutSpec(
        model="iris",
        candidate="v2",
        stable="v1",
        lanes=(Lane.REQUESTS,),
        steps=STEPS[steps],
        each=Pace(min_requests=50, min_time_s=0.0, max_wait_s=50.0, promote_after=promote_after),
        checks={name: CheckOptions() for name in (*default_checks(), Check.AGREEMENT)},
        bake_s=5.0,
        prepare_s=60.0,
    )


@dataclass
class World:
    """What is in the topics, and one host."""

    spec: RolloutSpec
    now_s: float = 1_000.0
    offset: int = 0
    slot: int = 0
    written: list[RolloutState] = field(default_factory=list)
    split: Split | None = None
    given: list[tuple[int, Command]] = field(default_factory=list)
    failing: float = 0.01
    last: LaneSlot | None = None

    def command(self, action: Action) -> None:
        self.offset += 1
        asked = self.spec if action is Action.START else None
        command = Command(id=f"c{self.offset}", rollout="iris-1", action=action, by="ann", spec=asked)
        self.given.append((self.offset, command))
        self.obey(len(self.given) - 1)

    def obey(self, number: int) -> None:
        """A command, perhaps once more."""
        offset, command = self.given[number]
        if not self.written:
            if command.action is Action.START:
                self.write(start(command, offset=offset, held=self.split, other=None, now_s=self.now_s))
            return
        after = obey(self.written[-1], command, offset=offset, held=self.split, now_s=self.now_s)
        if after is not self.written[-1] and not self.written[-1].phase.is_final:
            self.write(after)

    def by_hand(self, *, is_old_api: bool) -> None:
        generation = 0 if is_old_api or self.split is None else self.split.generation + 1
        changed = Split(model="iris", weights={"v1": 0.4, "v2": 0.6}, changed_s=self.now_s, generation=generation)
        # A table passes over a smaller generation, but not an API's from before there were any.
        self.split = changed

    def killed(self) -> None:
        """The host is gone; another reads the newest state and makes it its own."""
        if self.written and not self.written[-1].phase.is_final:
            state = self.written[-1]
            read = decode_rollout(key_of(state), encode_rollout(state))
            assert isinstance(read, RolloutState)
            split_generation = 0 if self.split is None or read.is_split_theirs else self.split.generation
            generation = 1 + max(read.generation, split_generation)
            self.write(replace(read, generation=generation, revision=read.revision + 1))

    def decide(self, *, has_traffic: bool, pool: CandidatePool, is_written: bool, is_again: bool) -> None:
        """One decision; without `is_written`, the host dies before it writes it."""
        if not self.written:
            return
        self.now_s += 1.0
        self.slot += 1
        state = self.written[-1]
        if has_traffic:
            self.last = self.traffic(weight_of(state), is_shadow=state.phase is Phase.SHADOWING)
        known = state.evidence.through_slot
        closed = [self.last] if self.last is not None and (has_traffic or is_again) and self.last.index > known else []
        window = Window(
            closed=closed,
            through_slot=self.slot if closed else -1,
            pool=pool,
            split=self.split,
            is_backlog_done=has_traffic,
        )
        decision = step(state, window, self.now_s)
        if not is_written:
            return
        assert decision == step(state, window, self.now_s)
        if decision.state is not state:
            self.write(decision.state)
        if decision.split is not None:
            self.split = decision.split

    def traffic(self, weight: float, *, is_shadow: bool) -> LaneSlot:
        ours = int(600 * weight)
        theirs = 600 - ours
        return LaneSlot(
            index=self.slot,
            candidate=tally(ours, int(ours * self.failing)),
            stable=tally(theirs, theirs // 100),
            shadow=tally(100, int(100 * self.failing)) if is_shadow else None,
        )

    def write(self, state: RolloutState) -> None:
        """What must hold for each state that is written after another."""
        before = self.written[-1] if self.written else None
        self.written.append(state)
        # Whatever a check says can be written.
        encode_rollout(state)
        numbers = [event.number for event in state.events]
        assert numbers == list(range(1, len(numbers) + 1))
        if before is None:
            return
        assert state.generation >= before.generation
        assert state.revision > before.revision
        # The history is never rewritten: no transition is decided a second time, by whoever.
        assert state.events[: len(before.events)] == before.events
        if before.phase.is_final:
            assert (state.phase, state.events) == (before.phase, before.events)
        for event in state.events[len(before.events) :]:
            if event.phase is Phase.BAKING and not event.by and event.was is not Phase.PAUSED:
                self.assert_shown(state)

    def assert_shown(self, state: RolloutState) -> None:
        """All traffic goes to the candidate by the evidence that the history states, or by hand."""
        counts = from_record(state.evidence).counts
        errors = next(verdict for verdict in state.verdicts if verdict.check is Check.ERRORS)
        enough = state.spec.each.promote_after
        assert errors.is_enough or (enough and counts[0] >= enough), state.events[-1]


def tally(requests: int, failed: int) -> LaneTally:
    return LaneTally(
        rollout="iris-1",
        lane=Lane.REQUESTS,
        requests=requests,
        failed=failed,
        compared=requests,
        agreed=requests - failed // 2,
        answers={"a": requests // 2, "b": requests - requests // 2},
        runs={run_bin(1, 0.001): requests},
    )


READY = CandidatePool(workers=1, is_probed=True)
POOLS = st.sampled_from(
    [
        *[READY] * 6,
        CandidatePool(workers=0),
        CandidatePool(),
        CandidatePool(workers=1),
        CandidatePool(workers=1, is_halted=True),
        CandidatePool(workers=1, probe_error="no"),
    ]
)
DECIDE = st.tuples(st.just("decide"), st.booleans(), POOLS, st.booleans(), st.booleans())
ACTIONS = st.one_of(
    DECIDE,
    DECIDE,
    DECIDE,
    st.tuples(st.just("command"), st.sampled_from(list(Action))),
    st.tuples(st.just("again"), st.integers(0, 50)),
    st.tuples(st.just("by hand"), st.booleans()),
    st.tuples(st.just("killed")),
    st.tuples(st.just("clock"), st.sampled_from([-500.0, -3.0, 20.0, 700.0])),
    st.tuples(st.just("failing"), st.sampled_from([0.01, 0.01, 0.5])),
)


@settings(max_examples=150)
@given(st.sampled_from(list(STEPS)), st.sampled_from([0, PROMOTE_AFTER]), st.lists(ACTIONS, max_size=60))
def test_whatever_happens_nothing_is_decided_twice_and_nothing_is_promoted_unseen(
    steps: str, promote_after: int, actions: Sequence[tuple[object, ...]]
) -> None:
    world = World(spec_of(steps, promote_after))
    world.command(Action.START)
    for name, *values in actions:
        match name, values:
            case "decide", [bool(has_traffic), CandidatePool() as pool, bool(is_written), bool(is_again)]:
                world.decide(has_traffic=has_traffic, pool=pool, is_written=is_written, is_again=is_again)
            case "command", [Action() as action]:
                world.command(action)
            case "again", [int(number)]:
                world.obey(number % len(world.given))
            case "by hand", [bool(is_old_api)]:
                world.by_hand(is_old_api=is_old_api)
            case "killed", []:
                world.killed()
            case "clock", [float(jump_s)]:
                world.now_s += jump_s
            case "failing", [float(share)]:
                world.failing = share
        check(world)
    settle(world)


def check(world: World) -> None:
    if world.split is not None:
        assert math.isclose(sum(world.split.weights.values()), 1.0)


def settle(world: World) -> None:
    """Once people and faults leave it alone, the split is what the state asks for."""
    for _ in range(3):
        world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    state, split = world.written[-1], world.split
    if split is None:
        assert state.phase.is_final
        return
    if state.phase in {Phase.ROLLED_BACK, Phase.FAILED, Phase.ROLLING_BACK} and split.rollout == state.id:
        assert "v2" not in split.weights
    if not state.is_split_theirs and not state.phase.is_final:
        assert split.weights.get("v2", 0.0) == weight_of(state)


def at_bake(world: World) -> None:
    world.command(Action.START)
    world.decide(has_traffic=False, pool=READY, is_written=True, is_again=False)
    world.command(Action.PROMOTE)
    assert world.written[-1].phase is Phase.BAKING


def test_only_what_was_watched_counts_as_baked() -> None:
    """A controller that was away between its decision and the split promoted at once, with no request watched."""
    world = World(spec_of("steps", 0))
    at_bake(world)
    world.now_s += 1_000.0
    world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    assert world.written[-1].phase is Phase.BAKING
    assert world.split is not None
    assert world.split.weights == {"v2": 1.0}
    world.now_s += 1.0
    world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    assert world.written[-1].phase is Phase.BAKING
    world.now_s += 5.0
    world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    assert world.written[-1].phase is Phase.PROMOTED


def test_a_split_that_is_forced_while_a_rollback_is_under_way_stays() -> None:
    world = World(spec_of("steps", 0))
    at_bake(world)
    world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    world.command(Action.ABORT)
    world.by_hand(is_old_api=False)
    theirs = world.split
    for _ in range(3):
        world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    assert (world.written[-1].phase, world.split) == (Phase.ROLLED_BACK, theirs)


def test_a_candidate_that_has_not_answered_its_probe_gets_no_traffic_from_a_person_either() -> None:
    world = World(spec_of("steps", 0))
    world.command(Action.START)
    world.command(Action.PROMOTE)
    world.command(Action.PAUSE)
    world.command(Action.PROMOTE)
    state = world.written[-1]
    assert (state.phase, weight_of(state)) == (Phase.PAUSED, 0.0)


def test_a_command_that_is_carried_out_already_changes_nothing() -> None:
    world = World(spec_of("steps", 0))
    at_bake(world)
    for action in (Action.PROMOTE, Action.PAUSE, Action.PAUSE, Action.ABORT, Action.ABORT):
        world.command(action)
    phases = [event.phase for event in world.written[-1].events]
    assert phases[-3:] == [Phase.BAKING, Phase.PAUSED, Phase.ROLLING_BACK]


def test_a_reason_of_full_length_and_what_is_added_to_it_can_be_read() -> None:
    world = World(spec_of("steps", 0))
    at_bake(world)
    world.decide(has_traffic=True, pool=READY, is_written=True, is_again=False)
    state = roll_back(world.written[-1], "x" * MAX_TEXT, world.now_s)
    split = split_of(state, world.now_s)
    over = step(state, Window(split=split, is_backlog_done=True, retried=7, left=3), world.now_s).state
    assert over.phase is Phase.ROLLED_BACK
    assert decode_rollout(key_of(over), encode_rollout(over)) == over


STATES = {
    Phase.PREPARING: lambda: begin(DRAFT, "", 0.0),
    Phase.STEPPING: lambda: enter(DRAFT, Phase.STEPPING, "", 0.0),
    Phase.BAKING: lambda: promote(DRAFT, "", 0.0, generation=1),
    Phase.PAUSED: lambda: pause(enter(DRAFT, Phase.STEPPING, "", 0.0), "", 0.0),
    Phase.ROLLING_BACK: lambda: roll_back(DRAFT, "too slow", 0.0),
    Phase.PROMOTED: lambda: enter(DRAFT, Phase.PROMOTED, "", 0.0),
}
DRAFT = RolloutState(id="iris-1", spec=spec_of("steps", 0))


@pytest.mark.parametrize(
    ("phase", "action", "says"),
    [
        (Phase.PREPARING, Action.PROMOTE, "v2 has not answered its probe"),
        (Phase.PREPARING, Action.RESUME, "is preparing, and only a paused one can be resumed"),
        (Phase.STEPPING, Action.RESUME, "is stepping, and only a paused one can be resumed"),
        (Phase.BAKING, Action.RESUME, "is baking, and only a paused one can be resumed"),
        (Phase.ROLLING_BACK, Action.PAUSE, "is being rolled back: too slow"),
        (Phase.ROLLING_BACK, Action.RESUME, "is being rolled back: too slow"),
        (Phase.ROLLING_BACK, Action.PROMOTE, "is being rolled back: too slow"),
        *((Phase.PROMOTED, action, "is over: promoted") for action in Action if action is not Action.START),
    ],
)
def test_a_command_that_does_not_apply_is_refused_and_changes_nothing(phase: Phase, action: Action, says: str) -> None:
    state = STATES[phase]()
    assert says in refusal_of(state, action)
    after = obey(state, Command(id="c", rollout="iris-1", action=action), offset=7, held=None, now_s=1.0)
    assert after == replace(state, commands_through=7, revision=state.revision + 1)


@pytest.mark.parametrize(
    ("phase", "actions"),
    [
        (Phase.PREPARING, {Action.PAUSE, Action.ABORT}),
        (Phase.STEPPING, {Action.PAUSE, Action.PROMOTE, Action.ABORT}),
        (Phase.BAKING, {Action.PAUSE, Action.PROMOTE, Action.ABORT}),
        (Phase.PAUSED, {Action.PAUSE, Action.RESUME, Action.PROMOTE, Action.ABORT}),
        (Phase.ROLLING_BACK, {Action.ABORT}),
        (Phase.PROMOTED, set()),
    ],
)
def test_the_commands_that_apply_are_not_refused(phase: Phase, actions: set[Action]) -> None:
    state = STATES[phase]()
    assert {action for action in Action if action is not Action.START and not refusal_of(state, action)} == actions
