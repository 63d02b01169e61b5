"""How many shadow copies a version may get: none while it is behind, so that copies are dropped and never queue up."""

from inferlane.runtime.metrics.router_metrics import SHADOW_COPIES

# Bulk records that may wait for a version before it gets no more copies. Fewer compare less at a high rate, because
# the lag is read every few seconds only; more are compared later.
_MAX_LAG_RECORDS = 5_000


class ShadowGate:
    """Counts what may still be copied until the lag is read again. One event loop."""

    def __init__(self) -> None:
        self._room: dict[tuple[str, str], int] = {}
        self._asked, self._dropped = (SHADOW_COPIES.labels(outcome) for outcome in ("asked", "dropped"))

    def note_lag(self, model: str, version: str, lag_records: int) -> None:
        """Note how many bulk records wait for a version."""
        self._room[model, version] = _MAX_LAG_RECORDS - lag_records

    def admits(self, model: str, version: str) -> bool:
        """Whether the version may get one copy more; counts it."""
        room = self._room.get((model, version), _MAX_LAG_RECORDS)
        if room <= 0:
            self._dropped.inc()
            return False
        self._room[model, version] = room - 1
        self._asked.inc()
        return True
