"""What a person does who wants a change that a rollout under way does not allow."""

from inferlane.contracts.rollout import Phase


def way_out(phase: Phase) -> str:
    """Return what ends a rollout in this phase, in words."""
    return "wait until it is rolled back" if phase is Phase.ROLLING_BACK else "promote or abort it"
