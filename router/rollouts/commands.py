"""What people ask of rollouts: the state that follows from a command. Pure."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from inferlane.contracts.rollout import Action, Command, Phase, RolloutState
from inferlane.contracts.traffic_split import Split
from router.rollouts.states import begin, enter, pause, promote, resume, roll_back

if TYPE_CHECKING:
    from collections.abc import Callable

_BEFORE_THE_END = frozenset({Phase.PREPARING, Phase.SHADOWING, Phase.STEPPING, Phase.BAKING, Phase.PAUSED})


def start(
    command: Command, *, offset: int, held: Split | None, other: RolloutState | None, now_s: float
) -> RolloutState:
    """The state of a new rollout; it has failed where `other` of the same model is under way.

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
    """The state after a command, which counts once; one that does not apply changes nothing but that."""
    if offset <= state.commands_through:
        return state
    state = replace(state, commands_through=offset, revision=state.revision + 1)
    if state.phase not in _BEFORE_THE_END:
        return state
    reason, by = command.reason, command.by
    generation = 1 + held.generation if state.is_split_theirs and held is not None else state.generation
    do: dict[Action, Callable[[], RolloutState]] = {
        Action.PAUSE: lambda: pause(state, reason or "paused by hand", now_s, by),
        Action.PROMOTE: lambda: promote(state, reason, now_s, by, generation=generation),
        Action.ABORT: lambda: roll_back(state, reason or "aborted by hand", now_s, by),
    }
    if state.phase is Phase.PAUSED:
        do[Action.RESUME] = lambda: resume(state, reason, now_s, by, generation=generation)
    return do[command.action]() if command.action in do else state
