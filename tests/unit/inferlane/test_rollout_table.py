"""The table of rollouts: which are kept when it is full, and commands of a topic that begins anew."""

import pytest
from msgspec.structs import replace

from inferlane.contracts.rollout import Action, Command, Phase, RolloutSpec, RolloutState, Step, encode_rollout, key_of
from inferlane.contracts.rollout_actions import current_rollouts
from inferlane.errors import DecodeError
from inferlane.runtime.rollout_table import RolloutTable

SPEC = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.05),))
ROOM = 1_000


def state(number: int, phase: Phase = Phase.PROMOTED, *, commands_through: int = -1) -> RolloutState:
    return RolloutState(
        id=f"iris-{number}", spec=SPEC, phase=phase, created_s=float(number), commands_through=commands_through
    )


def put(table: RolloutTable, record: RolloutState | Command) -> None:
    table.put(key_of(record).decode(), encode_rollout(record))


def test_a_full_table_forgets_the_oldest_rollout_that_is_over_and_never_one_under_way() -> None:
    table = RolloutTable()
    put(table, state(0, Phase.PAUSED))
    for number in range(1, ROOM + 5):
        put(table, state(number))
    assert len(table.states) == ROOM
    assert table.find("iris-0") is not None
    assert table.find("iris-5") is None
    assert table.find("iris-6") is not None
    start = Command(id="c", rollout="iris-new", action=Action.START, spec=SPEC)
    put(table, start)
    assert [given.command for given in table.commands] == [start]


def test_a_table_full_of_rollouts_under_way_takes_no_more_of_them_but_their_next_states() -> None:
    table = RolloutTable()
    for number in range(ROOM):
        put(table, state(number, Phase.STEPPING))
    with pytest.raises(DecodeError, match="1000 rollouts and commands under way"):
        put(table, state(ROOM, Phase.DRAFT))
    put(table, state(7))
    assert table.get("iris-7").phase is Phase.PROMOTED


async def test_a_command_decided_on_in_a_forgotten_topic_hides_none_of_the_new_one() -> None:
    table = RolloutTable()
    held = state(1, Phase.STEPPING, commands_through=120)
    await table.apply(121, key_of(held), encode_rollout(held))
    assert table.on_this_topic(held).commands_through == 120
    command = Command(id="c", rollout=held.id, action=Action.ABORT)
    await table.apply(0, key_of(command), encode_rollout(command))
    assert table.on_this_topic(held).commands_through < table.commands[0].offset


def test_a_model_stands_for_its_rollout_under_way_and_then_for_the_one_that_ended_last() -> None:
    won = RolloutState(id="won", spec=SPEC, phase=Phase.PAUSED, created_s=1.0, phase_since_s=2.0)
    lost = RolloutState(id="lost", spec=SPEC, phase=Phase.FAILED, created_s=3.0, phase_since_s=3.0)
    assert current_rollouts([lost, won])["iris"].id == "won"
    ended = replace(won, phase=Phase.PROMOTED, phase_since_s=4.0)
    assert current_rollouts([lost, ended])["iris"].id == "won"
