"""The windows of every version: summaries in, changed slots out. Pure; one event loop."""

from collections.abc import Iterable
from enum import StrEnum

from inferlane.contracts.outcomes import OutcomeSummary
from inferlane.contracts.windows import Slot, add, slot_index, slot_indices

SlotKey = tuple[str, str, int]

# A worker's clock may run ahead of ours by so much; a slot further on would stay for as long as the clock is wrong.
_MAX_AHEAD_S = 60.0
# Bounds of the memory when summaries come from somebody who is no worker of ours.
_MAX_VERSIONS = 256
_MAX_WORKERS = 1_024
_MAX_SUMMARIES_A_WORKER = 256


class SummaryDecision(StrEnum):
    """What became of a summary."""

    ADDED = "added"
    DUPLICATE = "duplicate"
    LATE = "late"
    AHEAD = "ahead"
    FULL = "full"


class VersionWindows:
    """Slots of the last `window_s` seconds. Any order and any repetition of the same summaries gives the same slots."""

    def __init__(self, *, slot_s: int, window_s: int) -> None:
        self._slot_s = slot_s
        self._window_s = window_s
        self._slots: dict[SlotKey, Slot] = {}
        self._changed: set[SlotKey] = set()

    def apply(self, summary: OutcomeSummary, *, now_s: float) -> SummaryDecision:
        """Add a summary, once."""
        index = slot_index(summary.to_s, slot_s=self._slot_s)
        if index < self._oldest(now_s):
            return SummaryDecision.LATE
        if summary.to_s > now_s + _MAX_AHEAD_S:
            return SummaryDecision.AHEAD
        key = (summary.model, summary.version, index)
        slot = self._slots.get(key) or Slot(model=summary.model, version=summary.version, index=index)
        if not self._has_room(slot, summary):
            return SummaryDecision.FULL
        changed = add(slot, summary)
        if changed is slot:
            return SummaryDecision.DUPLICATE
        self._slots[key] = changed
        self._changed.add(key)
        return SummaryDecision.ADDED

    def drop_old(self, *, now_s: float) -> None:
        """Forget the slots that no window reaches any more."""
        oldest = self._oldest(now_s)
        for key in [key for key in self._slots if key[2] < oldest]:
            del self._slots[key]
            self._changed.discard(key)

    def changed(self, limit: int) -> list[Slot]:
        """At most `limit` slots that are not published as they are now, the newest first."""
        newest = sorted(self._changed, key=lambda key: key[2], reverse=True)
        return [self._slots[key] for key in newest[:limit]]

    def mark_published(self, slots: Iterable[Slot]) -> None:
        """Note that the store has these; one that has changed meanwhile stays changed."""
        for slot in slots:
            key = (slot.model, slot.version, slot.index)
            if self._slots.get(key) is slot:
                self._changed.discard(key)

    def mark_all_changed(self) -> None:
        """Note that the store has nothing of what was published."""
        self._changed.update(self._slots)

    def _oldest(self, now_s: float) -> int:
        return slot_indices(window_s=self._window_s, now_s=now_s, slot_s=self._slot_s).start

    def _has_room(self, slot: Slot, summary: OutcomeSummary) -> bool:
        use = slot.workers.get(summary.worker_id)
        if use is not None:
            return summary.sequence in use.sequences or len(use.sequences) < _MAX_SUMMARIES_A_WORKER
        if slot.workers:
            return len(slot.workers) < _MAX_WORKERS
        versions = {key[:2] for key in self._slots}
        return (slot.model, slot.version) in versions or len(versions) < _MAX_VERSIONS
