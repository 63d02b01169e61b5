"""KEDA's own part: between no replica and one, which an HPA cannot do.

Source: `RequestScale`, `scaleFromZeroOrIdle` and `scaleToZeroOrIdle` of KEDA 2.20.0,
pkg/scaling/executor/scale_scaledobjects.go.
"""

from control_plane.autoscaling.scaled_object import ScaledObject


class Activation:
    """Wakes and puts to sleep one pool; `step` every polling interval."""

    def __init__(self, numbers: ScaledObject, *, now_s: float) -> None:
        self._numbers = numbers
        self._began_s = now_s
        self._last_active_s: float | None = None

    def note_active(self, now_s: float) -> None:
        """Let the cooldown begin anew, as if a trigger had been active now."""
        self._last_active_s = now_s

    def step(self, current: int, *, is_active: bool, has_error: bool, now_s: float) -> int:
        """Return the replicas to have.

        `is_active`: a trigger is above its activation threshold, or falls back. `has_error`: one could not be read.
        """
        numbers = self._numbers
        if is_active:
            wakes = current == 0 or (numbers.idle_replicas is not None and current < numbers.min_replicas)
            # A trigger that fails while another is active does not renew the cooldown.
            if wakes or not has_error:
                self._last_active_s = now_s
            return max(1, numbers.min_replicas) if wakes else current
        if has_error and (numbers.fallback is None or numbers.fallback.replicas > 0):
            return current
        if self._sleeps_from(current):
            return self._asleep() if self._has_cooled(now_s) else current
        if numbers.idle_replicas is None and current < numbers.min_replicas:
            return numbers.min_replicas
        return current

    def _sleeps_from(self, current: int) -> bool:
        idle = self._numbers.idle_replicas
        return (idle is not None and current > idle) or (current > 0 and self._numbers.min_replicas == 0)

    def _asleep(self) -> int:
        idle = self._numbers.idle_replicas
        return self._numbers.min_replicas if idle is None else idle

    def _has_cooled(self, now_s: float) -> bool:
        if self._last_active_s is None:
            return now_s - self._began_s > self._numbers.initial_cooldown_s
        return now_s - self._last_active_s > self._numbers.cooldown_s
