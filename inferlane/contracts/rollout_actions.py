"""Which rollout a model's name stands for, and which commands a rollout obeys in which phase. Pure.

The API refuses the other commands, and a router passes them over.
"""

from collections.abc import Iterable

from inferlane.contracts.rollout import Action, Phase, RolloutState

_ENDED_BADLY = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})


def refusal_of(state: RolloutState, action: Action) -> str:
    """Return why a command does not apply, with the remedy; empty if it does, or if it is already carried out."""
    name, candidate = f"the rollout {state.id}", state.spec.candidate
    if state.phase.is_final:
        return f"{name} is over: {state.phase}, {state.reason}; start another one"
    if state.phase is Phase.ROLLING_BACK and action is not Action.ABORT:
        return f"{name} is being rolled back: {state.reason}; wait for its end, then start another one"
    if action is Action.RESUME and state.phase is not Phase.PAUSED:
        return f"{name} is {state.phase}, and only a paused one can be resumed; `pause` holds it, `abort` ends it"
    if action is Action.PROMOTE and state.awaits_probe:
        return (
            f"{candidate} has not answered its probe, so {name} gives it no traffic yet; wait until it is stepping, or "
            "abort it and set the traffic split by hand"
        )
    return ""


def is_overtaken(state: RolloutState, action: Action) -> bool:
    """Whether the rollout ended otherwise before it was decided on a command."""
    return state.phase is Phase.PROMOTED if action is Action.ABORT else state.phase in _ENDED_BADLY


def precedence(phase: Phase, phase_since_s: float) -> tuple[bool, float]:
    """Return what orders the rollouts of one model: its name stands for the largest, see `current_rollouts`.

    Of several that are started at once all but one fail at the start: they are newer than the one that goes on.
    """
    return not phase.is_final, phase_since_s


def current_rollouts(states: Iterable[RolloutState]) -> dict[str, RolloutState]:
    """Return the rollout that each model's name stands for: the one under way, else the one that ended last."""
    found: dict[str, RolloutState] = {}
    for state in sorted(states, key=lambda one: precedence(one.phase, one.phase_since_s)):
        found[state.spec.model] = state
    return found
