"""How long to wait before a process that died is started again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential, with a ceiling, forgotten after a stable run. Pure.

    `first_s` too small spins on a process that dies at once, too large keeps a pool down after one crash.
    `stable_after_s` must exceed the time to get ready, or a process that dies just after never slows down.
    """

    first_s: float = 0.25
    ceiling_s: float = 30.0
    stable_after_s: float = 30.0

    def deaths_in_a_row(self, before: int, *, ran_s: float) -> int:
        """Count this death: 1 if the run was stable, else one more than before."""
        return 1 if ran_s >= self.stable_after_s else before + 1

    def delay_s(self, deaths_in_a_row: int) -> float:
        """Seconds to wait after that many deaths in a row (>= 1): doubled each time up to the ceiling."""
        # A power that large overflows a float before the ceiling could cut it.
        doublings = min(deaths_in_a_row - 1, 64)
        return min(self.first_s * 2.0**doublings, self.ceiling_s)
