"""Outcome windows: summaries of one version gathered in slots of time.

Slot `i` is the time from `i * slot_s` to `(i + 1) * slot_s`; a summary belongs to the slot that its `to_s` lies in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from inferlane.contracts.outcomes import OTHER, LatencySketches, OutcomeSummary
from inferlane.contracts.sketches import merge_sketches
from inferlane.errors import DecodeError
from inferlane.quoting import clipped

# Names of classes and of failures that a slot tells apart. Models have more classes than that; what a window shows has
# not, and whoever can write to the topic could make up any number.
_MAX_NAMES = 1_000


class WorkerUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker reported in one slot. `sequences` are the summaries that it holds, ascending."""

    sequences: tuple[int, ...] = ()
    newest_s: float = 0.0
    newest_sequence: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """All summaries of one version in one slot of time."""

    model: str
    version: str
    index: int
    outcomes: dict[str, int] = {}
    failures: dict[str, int] = {}
    batches: int = 0
    rows: int = 0
    latency: LatencySketches = LatencySketches()
    classes: dict[str, int] = {}
    values: bytes = b""
    workers: dict[str, WorkerUse] = {}


def slot_index(at_s: float, *, slot_s: int) -> int:
    """The slot that a moment lies in."""
    return int(at_s // slot_s)


def slot_indices(*, window_s: float, now_s: float, slot_s: int) -> range:
    """The slots that a window touches, the one at its old edge whole."""
    return range(slot_index(now_s - window_s, slot_s=slot_s), slot_index(now_s, slot_s=slot_s) + 1)


def add(slot: Slot, summary: OutcomeSummary) -> Slot:
    """The slot with this summary in it; the same object if it is in it already."""
    use = slot.workers.get(summary.worker_id, WorkerUse())
    if summary.sequence in use.sequences:
        return slot
    # A clock that was set back stands still for a while, so the time alone does not tell which is newer.
    is_newest = (summary.to_s, summary.sequence) >= (use.newest_s, use.newest_sequence)
    use = WorkerUse(
        sequences=tuple(sorted((*use.sequences, summary.sequence))),
        newest_s=max(use.newest_s, summary.to_s),
        newest_sequence=summary.sequence if is_newest else use.newest_sequence,
        memory_bytes=summary.memory_bytes if is_newest else use.memory_bytes,
        cpu_s=use.cpu_s + summary.cpu_s,
    )
    return Slot(
        model=slot.model,
        version=slot.version,
        index=slot.index,
        outcomes=sum_counts([slot.outcomes, summary.outcomes]),
        failures=_bounded(sum_counts([slot.failures, summary.failures])),
        batches=slot.batches + summary.batches,
        rows=slot.rows + summary.rows,
        latency=merge_latency([slot.latency, summary.latency]),
        classes=_bounded(sum_counts([slot.classes, summary.classes])),
        values=merge_sketches([slot.values, summary.values]),
        workers={**slot.workers, summary.worker_id: use},
    )


def _bounded(counts: dict[str, int]) -> dict[str, int]:
    """The counts of the largest names; those past the bound are counted together, as are any that come later."""
    if len(counts) <= _MAX_NAMES:
        return counts
    largest = Counter(counts).most_common(_MAX_NAMES - 1)
    kept = {name: count for name, count in largest if name != OTHER}
    kept[OTHER] = sum(counts.values()) - sum(kept.values())
    return kept


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum for each name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def merge_latency(parts: Sequence[LatencySketches]) -> LatencySketches:
    """The sketches of all values of all parts."""
    return LatencySketches(
        queue_wait=merge_sketches(part.queue_wait for part in parts),
        inference=merge_sketches(part.inference for part in parts),
        total=merge_sketches(part.total for part in parts),
    )


encode_slot = msgspec.json.Encoder().encode
_decode_slot = msgspec.json.Decoder(Slot).decode


def decode_slot(raw: bytes | str) -> Slot:
    """Read a stored slot.

    Raises:
        DecodeError: the bytes are none.
    """
    try:
        return _decode_slot(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"stored bytes hold no outcome slot: {clipped(str(error))}") from error
