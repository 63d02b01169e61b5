"""The gauges of rollouts, set by the router that decides."""

from collections.abc import Sequence

from inferlane.contracts.rollout import Phase, RolloutState
from inferlane.runtime.metrics.router_metrics import ROLLOUT_EVIDENCE, ROLLOUT_PAUSED, ROLLOUT_PHASE


def show_rollouts(states: Sequence[RolloutState], *, now_s: float) -> None:
    """Set the gauges of each model to those of its newest rollout; `states` has the newest first."""
    shown: set[str] = set()
    for state in states:
        model = state.spec.model
        if model in shown:
            continue
        shown.add(model)
        for phase in Phase:
            ROLLOUT_PHASE.labels(model, phase).set(phase is state.phase)
        for verdict in state.verdicts:
            ROLLOUT_EVIDENCE.labels(model, verdict.check).set(verdict.log_evidence or 0.0)
        is_paused = state.phase is Phase.PAUSED
        ROLLOUT_PAUSED.labels(model).set(now_s - state.phase_since_s if is_paused else 0.0)


def forget_rollouts() -> None:
    """Show none: another router decides now."""
    for gauge in (ROLLOUT_PHASE, ROLLOUT_EVIDENCE, ROLLOUT_PAUSED):
        gauge.clear()
