"""The outcome windows of every version: summaries in, changed slots out. No I/O; one event loop."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from inferlane.contracts.outcomes import OutcomeSummary
from inferlane.contracts.windows import Slot, add, slot_index, slot_indices

SlotKey = tuple[str, str, int]

# How far a worker's clock may run ahead. A slot further in the future would stay until the time catches up with it.
_MAX_AHEAD_S = 60.0
# Limits on memory: anybody who may write to the outcomes topic can send summaries.
_MAX_VERSIONS = 256
_MAX_WORKERS = 1_024
_MAX_SUMMARIES_A_WORKER = 256


class SummaryDecision(StrEnum):
    """Whether a summary was added, or why not."""

    ADDED = "added"
    DUPLICATE = "duplicate"
    LATE = "late"
    AHEAD = "ahead"
    FULL = "full"


class VersionWindows:
    """The slots of the last `window_s` seconds. Order and repetition of the same summaries do not matter."""

    def __init__(self, *, slot_s: int, window_s: int) -> None:
        self._slot_s = slot_s
        self._window_s = window_s
        self._slots: dict[SlotKey, Slot] = {}
        self._changed: set[SlotKey] = set()

    def apply(self, summary: OutcomeSummary, *, now_s: float) -> SummaryDecision:
        """Add a summary unless it was added before."""
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

    def slots_of(self, model: str, version: str) -> Sequence[Slot]:
        """Return the slots of one version, oldest first."""
        keys = sorted(key for key in self._slots if key[:2] == (model, version))
        return [self._slots[key] for key in keys]

    def drop_old(self, *, now_s: float) -> None:
        """Drop the slots that are older than the window."""
        oldest = self._oldest(now_s)
        for key in [key for key in self._slots if key[2] < oldest]:
            del self._slots[key]
            self._changed.discard(key)

    def changed(self, limit: int) -> list[Slot]:
        """At most `limit` slots that changed since they were published, newest first."""
        newest = sorted(self._changed, key=lambda key: key[2], reverse=True)
        return [self._slots[key] for key in newest[:limit]]

    def mark_published(self, slots: Iterable[Slot]) -> None:
        """Note that the store has these slots; a slot that changed meanwhile still counts as changed."""
        for slot in slots:
            key = (slot.model, slot.version, slot.index)
            if self._slots.get(key) is slot:
                self._changed.discard(key)

    def mark_all_changed(self) -> None:
        """Mark every slot as changed: the store has lost what was published."""
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
