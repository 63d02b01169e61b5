"""A rollout as the page shows it: its steps, where it is, and what each check says. Pure."""

from collections.abc import Sequence

import msgspec

from inferlane.contracts.rollout import Check, Phase, RolloutState, Verdict
from inferlane.contracts.rollout_request import words_of

# How long a rollout that is over stays on the page.
_SHOWN_AFTER_S = 600.0


class CheckRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a check says. `low` and `high` bound the difference to the stable version, in points of 100."""

    check: str
    says: str
    is_failed: bool
    low: float | None
    high: float | None


class RolloutCard(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout. `step` is the number of the step that it is in, the number of all steps once it bakes or is over."""

    id: str
    model: str
    stable: str
    candidate: str
    phase: str
    steps: tuple[str, ...]
    step: int
    requests: int
    says: str
    checks: tuple[CheckRow, ...]


def rollout_cards(rollouts: Sequence[RolloutState], *, now_s: float) -> tuple[RolloutCard, ...]:
    """The rollouts that are not over, then those that ended a little before."""
    shown = [one for one in rollouts if not one.phase.is_final or now_s - one.phase_since_s < _SHOWN_AFTER_S]
    return tuple(_card(state) for state in sorted(shown, key=lambda one: one.phase.is_final))


def _card(state: RolloutState) -> RolloutCard:
    spec = state.spec
    is_past = state.phase in {Phase.BAKING, Phase.PROMOTED} or state.paused_from is Phase.BAKING
    return RolloutCard(
        id=state.id,
        model=spec.model,
        stable=spec.stable,
        candidate=spec.candidate,
        phase=state.phase.replace("_", " "),
        steps=tuple(words_of(step) for step in spec.steps),
        step=len(spec.steps) if is_past else state.step,
        requests=state.requests_in_step,
        says=state.waits_for or state.reason,
        checks=tuple(
            CheckRow(
                check=verdict.check,
                says=verdict.says,
                is_failed=verdict.is_failed,
                low=_points(verdict, verdict.low),
                high=_points(verdict, verdict.high),
            )
            for verdict in state.verdicts
        ),
    )


def _points(verdict: Verdict, bound: float | None) -> float | None:
    """A bound in points; None for feedback, of which more is better: it says its bounds in words."""
    return None if bound is None or verdict.check in {Check.QUALITY, Check.REWARD} else 100 * bound
