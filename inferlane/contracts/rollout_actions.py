"""Which commands a rollout obeys in which phase: the API refuses the others, and a router passes them over. Pure."""

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
