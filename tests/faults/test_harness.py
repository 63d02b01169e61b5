"""The judge itself: a suite that cannot see a broken promise proves nothing. No processes."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from inferlane.contracts.results import Status
from models.store_reader import load_catalog
from tests.faults.harness.ledger import Entry, Ledger
from tests.faults.harness.plan import SENDERS, Fault, deck_size, schedule
from tests.faults.harness.questions import MODEL, Answer, Fate, Oracle, Way
from tests.faults.harness.verdict import Verdict, judge

GRACE_S = 10.0
NEEDS_NODES = {Fault.KILL_NODE, Fault.RESTART_NODE, Fault.FREEZE_NODE, Fault.ADD_PARTITIONS, Fault.RESET_OFFSETS}
EXPIRED = Answer(status=Status.EXPIRED, version="", error_code="deadline_exceeded")


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(load_catalog(Path(".inferlane/models"), default_model=MODEL).model(MODEL))


@pytest.fixture
def entry(oracle: Oracle) -> Entry:
    """A request with a pin, due at 100 s."""
    question = replace(oracle.ask(random.Random(1)), version="v1", deadline_s=100.0)
    return Entry(request_id="id", way=Way.REQUESTS, question=question, due_from_s=100.0, due_by_s=100.0)


def verdict_on(entry: Entry, oracle: Oracle, *answers: tuple[Answer, float]) -> Verdict:
    ledger = Ledger()
    ledger.expect(entry)
    ledger.accept(entry.request_id, at_s=0.0)
    for answer, at_s in answers:
        ledger.observe(entry.request_id, answer, at_s=at_s)
    return judge(ledger, oracle, grace_s=GRACE_S)


def test_the_model_s_own_answer_holds(entry: Entry, oracle: Oracle) -> None:
    right = oracle.right_answer("v1", entry.question.rows)
    assert verdict_on(entry, oracle, (right, 1.0), (right, 2.0)).holds


def test_an_accepted_request_without_an_answer_is_lost(entry: Entry, oracle: Oracle) -> None:
    assert len(verdict_on(entry, oracle).lost) == 1


def test_a_request_that_was_not_accepted_is_owed_nothing(entry: Entry, oracle: Oracle) -> None:
    ledger = Ledger()
    ledger.expect(entry)
    assert judge(ledger, oracle, grace_s=GRACE_S).holds


def test_a_404_for_an_accepted_id_is_a_loss_even_if_the_answer_comes_later(entry: Entry, oracle: Oracle) -> None:
    entry.was_denied = True
    assert len(verdict_on(entry, oracle, (oracle.right_answer("v1", entry.question.rows), 1.0)).lost) == 1


def test_the_answer_of_another_request_is_wrong(entry: Entry, oracle: Oracle) -> None:
    other = oracle.ask(random.Random(2))
    assert len(verdict_on(entry, oracle, (oracle.right_answer("v1", other.rows), 1.0)).wrong) == 1


def test_the_answer_of_another_version_than_the_pinned_one_is_wrong(entry: Entry, oracle: Oracle) -> None:
    assert len(verdict_on(entry, oracle, (oracle.right_answer("v2", entry.question.rows), 1.0)).wrong) == 1


def test_a_failure_of_a_good_request_is_wrong(entry: Entry, oracle: Oracle) -> None:
    failed = Answer(status=Status.FAILED, version="v1", error_code="internal_error")
    assert len(verdict_on(entry, oracle, (failed, 1.0)).wrong) == 1


@pytest.mark.parametrize(("at_s", "wrong"), [(99.0, 1), (101.0, 0)])
def test_expired_is_right_after_the_deadline_only(entry: Entry, oracle: Oracle, at_s: float, wrong: int) -> None:
    assert len(verdict_on(entry, oracle, (EXPIRED, at_s)).wrong) == wrong


def test_an_answer_long_after_the_deadline_hung(entry: Entry, oracle: Oracle) -> None:
    assert verdict_on(entry, oracle, (EXPIRED, 100.0 + GRACE_S - 1)).hanging == ()
    later = replace(entry, answer=None, answered_s=None)
    assert len(verdict_on(later, oracle, (EXPIRED, 100.0 + GRACE_S + 1)).hanging) == 1


def test_two_different_terminal_results_contradict_each_other(entry: Entry, oracle: Oracle) -> None:
    right = oracle.right_answer("v1", entry.question.rows)
    assert len(verdict_on(entry, oracle, (right, 99.0), (EXPIRED, 101.0)).contradicted) == 1


def test_the_same_end_told_with_and_without_a_version_is_one_result(entry: Entry, oracle: Oracle) -> None:
    assert verdict_on(entry, oracle, (EXPIRED, 101.0), (replace(EXPIRED, version="v1"), 102.0)).holds


def test_a_key_that_stands_for_two_ids_is_a_contradiction(entry: Entry, oracle: Oracle) -> None:
    entry.second_id = "another"
    assert len(verdict_on(entry, oracle, (oracle.right_answer("v1", entry.question.rows), 1.0)).contradicted) == 1


def test_the_longest_stall_is_counted_only_while_an_answer_is_owed(entry: Entry, oracle: Oracle) -> None:
    ledger = Ledger()
    right = oracle.right_answer("v1", entry.question.rows)
    for number, (accepted_s, answered_s) in enumerate([(10.0, 13.0), (50.0, 55.0), (54.0, 57.0)]):
        ledger.expect(replace(entry, request_id=str(number)))
        ledger.accept(str(number), at_s=accepted_s)
        if number != 1:
            ledger.observe(str(number), right, at_s=answered_s)
    assert ledger.longest_stall_s == 7.0
    ledger.mark_time(70.0)
    assert ledger.longest_stall_s == 13.0


@pytest.mark.parametrize("has_nodes", [True, False])
def test_every_kind_of_fault_comes_in_every_deck_and_a_seed_repeats_it(has_nodes: bool) -> None:
    size = deck_size(has_nodes=has_nodes)
    first, second = (Counter(deck) for deck in two_decks(schedule(7, has_nodes=has_nodes), size))
    assert first == second
    assert set(first) == set(Fault) - ({Fault.FREEZE_BROKER} if has_nodes else NEEDS_NODES)
    assert list(islice(schedule(7, has_nodes=has_nodes), size)) == list(islice(schedule(7, has_nodes=has_nodes), size))
    assert list(islice(schedule(7, has_nodes=has_nodes), size)) != list(islice(schedule(8, has_nodes=has_nodes), size))


def two_decks(faults: Iterator[Fault], size: int) -> Iterator[list[Fault]]:
    for _ in range(2):
        yield list(islice(faults, size))


@pytest.mark.parametrize(("fate", "served", "failed"), [(Fate.SERVED, 0, 1), (Fate.REFUSED, 1, 0), (Fate.EITHER, 0, 0)])
def test_what_cannot_be_served_must_be_told_so(
    entry: Entry, oracle: Oracle, fate: Fate, served: int, failed: int
) -> None:
    entry = replace(entry, question=replace(entry.question, fate=fate))
    answers = (oracle.right_answer("v1", entry.question.rows), Answer(status=Status.FAILED, version="v1"))
    for answer, wrong in zip(answers, (served, failed), strict=True):
        assert len(verdict_on(replace(entry), oracle, (answer, 1.0)).wrong) == wrong
    assert len(verdict_on(replace(entry), oracle).lost) == 1


def test_what_was_accepted_before_the_store_was_emptied_may_be_forgotten_but_not_wrong(
    entry: Entry, oracle: Oracle
) -> None:
    ledger = Ledger()
    for request_id in ("unanswered", "answered"):
        ledger.expect(replace(entry, request_id=request_id))
        ledger.accept(request_id, at_s=0.0)
    ledger.forget(at_s=1.5)
    assert ledger.pending == 0
    ledger.observe("answered", oracle.right_answer("v1", oracle.ask(random.Random(2)).rows), at_s=1.0)
    ledger.expect(replace(entry, request_id="later"))
    ledger.accept("later", at_s=2.0)
    verdict = judge(ledger, oracle, grace_s=GRACE_S)
    assert (verdict.forgotten, len(verdict.wrong), len(verdict.lost)) == (1, 1, 1)
    ledger.expect(replace(entry, request_id="asked before", asked_s=1.4))
    ledger.accept("asked before", at_s=1.6)
    assert (judge(ledger, oracle, grace_s=GRACE_S).forgotten, ledger.pending) == (2, 1)


def test_a_run_of_senders_alone_kills_nothing() -> None:
    assert set(islice(schedule(7, has_nodes=True, only_senders=True), 60)) == SENDERS
