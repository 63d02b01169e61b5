"""What was accepted and what became of it. Pure; times are seconds since the epoch on one machine."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.harness.questions import Answer, Question, Way


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request id. Its deadline lies between `due_from_s` and `due_by_s`: over HTTP only the API knows it."""

    request_id: str
    way: Way
    question: Question
    due_from_s: float
    due_by_s: float
    accepted_s: float | None = None
    answer: Answer | None = None
    answered_s: float | None = None
    # Another terminal result for the same id, which no client may ever see.
    contradiction: Answer | None = None
    # Another id that the API gave for the same Idempotency-Key.
    second_id: str | None = None
    # When it was sent first: before the store was emptied, it may be forgotten although its acceptance came later.
    asked_s: float = math.inf
    # How often it was answered: a bulk result may come twice, a poll may find it again.
    answers: int = 0
    is_cancelled: bool = False
    # The API said 404 of an id that it had accepted.
    was_denied: bool = False
    # The `ce_source` of a record, without which its result cannot be read by its id.
    source: str = ""
    # The store was emptied after it was accepted: its result may be gone, and 404 is the truth.
    may_be_forgotten: bool = False


@dataclass(slots=True)
class Ledger:
    """Every request id that may be accepted, by id."""

    entries: dict[str, Entry] = field(default_factory=dict)
    longest_stall_s: float = 0.0
    last_accepted_s: float = 0.0
    forgot_s: float = 0.0
    _pending: set[str] = field(default_factory=set)
    _moved_s: float = 0.0

    @property
    def pending(self) -> int:
        """How many accepted requests have no answer."""
        return len(self._pending)

    def accepted(self) -> Iterator[Entry]:
        """The requests that were accepted."""
        return (entry for entry in self.entries.values() if entry.accepted_s is not None)

    def expect(self, entry: Entry) -> None:
        """Note an id before it is known whether it is accepted: its answer may come first."""
        entry.may_be_forgotten = entry.asked_s < self.forgot_s
        self.entries[entry.request_id] = entry

    def accept(self, request_id: str, *, at_s: float) -> None:
        """Note that the client holds an acceptance: from now on an answer is owed."""
        entry = self.entries[request_id]
        if entry.accepted_s is None:
            entry.accepted_s = self.last_accepted_s = at_s
            if entry.answer is None and not entry.may_be_forgotten:
                if not self._pending:
                    self._moved_s = at_s
                self._pending.add(request_id)

    def observe(self, request_id: str, answer: Answer, *, at_s: float) -> None:
        """Note a terminal result that a client saw. One of an id that is not ours is nobody's business."""
        entry = self.entries.get(request_id)
        if entry is None:
            return
        entry.answers += 1
        if entry.answer is not None:
            if not entry.answer.is_same(answer):
                entry.contradiction = answer
            return
        entry.answer, entry.answered_s = answer, at_s
        if request_id in self._pending:
            self.mark_time(at_s)
            self._moved_s = at_s
            self._pending.discard(request_id)

    def forget(self, *, at_s: float) -> None:
        """Note that the store has forgotten what it had: of what was asked until now nothing is owed."""
        for entry in self.entries.values():
            entry.may_be_forgotten = True
        self._pending.clear()
        self.forgot_s = at_s

    def mark_time(self, now_s: float) -> None:
        """Count the time since something was last answered while something was pending."""
        if self._pending:
            self.longest_stall_s = max(self.longest_stall_s, now_s - self._moved_s)
