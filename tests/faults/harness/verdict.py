"""From the ledger to what was lost, late, wrong or contradicted. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.harness.ledger import Entry, Ledger
from tests.faults.harness.questions import Oracle, Way

# Clocks of one machine, read in two processes.
_CLOCK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Each broken promise in words; all empty when the promise held.

    `contradicted` are ids of which clients saw two different terminal results, or whose key stood for two ids.
    `repeats_differ` are bulk ids whose later result on `inferlane.results` differs from the first: there the first in
    its partition counts, for every reader (docs/delivery.md).
    """

    lost: tuple[str, ...]
    hanging: tuple[str, ...]
    wrong: tuple[str, ...]
    contradicted: tuple[str, ...]
    repeats_differ: tuple[str, ...]
    # Accepted before the store was emptied, and without an answer since.
    forgotten: int

    @property
    def holds(self) -> bool:
        """Whether every accepted id ended in exactly one right answer in time."""
        return not (self.lost or self.hanging or self.wrong or self.contradicted)


def judge(ledger: Ledger, oracle: Oracle, *, grace_s: float) -> Verdict:
    """The verdict over a run that has ended: what has no answer now will not get one."""
    everything = list(ledger.accepted())
    forgotten = [entry for entry in everything if entry.may_be_forgotten and entry.answer is None]
    owed = [entry for entry in everything if not entry.may_be_forgotten]
    # What was answered is judged, whatever the store forgot later.
    accepted = [entry for entry in everything if entry.answer is not None or not entry.may_be_forgotten]
    contradicted = [entry for entry in owed if entry.contradiction is not None or entry.second_id is not None]
    return Verdict(
        lost=tuple(_lost(owed)),
        hanging=tuple(_hanging(accepted, grace_s)),
        wrong=tuple(_wrong(accepted, oracle)),
        contradicted=tuple(_contradiction(entry) for entry in contradicted if entry.way is not Way.BULK),
        repeats_differ=tuple(_contradiction(entry) for entry in contradicted if entry.way is Way.BULK),
        forgotten=len(forgotten),
    )


def _lost(accepted: list[Entry]) -> Iterator[str]:
    for entry in accepted:
        if entry.answer is None:
            yield f"{_name(entry)}: accepted, and no answer came"
        elif entry.was_denied:
            yield f"{_name(entry)}: accepted, and the API once said 404"


def _hanging(accepted: list[Entry], grace_s: float) -> Iterator[str]:
    for entry in accepted:
        if entry.answered_s is not None and entry.answered_s > entry.due_by_s + grace_s:
            yield f"{_name(entry)}: answered {entry.answered_s - entry.due_by_s:.1f} s after its deadline"


def _wrong(accepted: list[Entry], oracle: Oracle) -> Iterator[str]:
    for entry in accepted:
        if entry.answer is None or entry.answered_s is None:
            continue
        why = oracle.why_wrong(
            entry.question,
            entry.answer,
            may_expire=entry.answered_s > entry.due_from_s - _CLOCK_S,
            is_cancelled=entry.is_cancelled,
        )
        if why is not None:
            yield f"{_name(entry)}: {why}"


def _contradiction(entry: Entry) -> str:
    if entry.second_id is not None:
        return f"{_name(entry)}: its Idempotency-Key was answered with the id {entry.second_id} too"
    return f"{_name(entry)}: first {entry.answer}, then {entry.contradiction}"


def _name(entry: Entry) -> str:
    return f"{entry.request_id} ({entry.way})"
