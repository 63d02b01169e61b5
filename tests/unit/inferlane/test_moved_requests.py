"""Which records a worker passes over because another version was given them."""

from inferlane.contracts.fallback import rerouted_record
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_unidentified
from tests.support.fakes.records import FakeRecord

MARKED = (("ce_id", b"a"), ("ce_model", b"iris"), ("ce_modelversion", b"v2"), ("ce_rollout", b"iris-1"))


def test_a_moved_request_keeps_its_id_and_deadline_and_counts_in_no_rollout_any_more() -> None:
    headers = (*MARKED, ("ce_deadline", b"2026-01-31T12:00:00Z"), ("ce_fallback", b"v1"))
    record = FakeRecord(value=b"{}", headers=headers)
    moved = rerouted_record(record, read_unidentified(record), to_version="v1", names=Names(), lane=Lane.BULK)
    assert moved is not None
    assert moved.topic == "inferlane.iris.v1.bulk"
    assert dict(moved.headers) == {
        "ce_id": b"a",
        "ce_model": b"iris",
        "ce_modelversion": b"v1",
        "ce_deadline": b"2026-01-31T12:00:00Z",
        "ce_attempt": b"2",
        "ce_fallbackfrom": b"v2",
    }


def test_pinned_requests_and_shadow_copies_are_not_moved() -> None:
    for headers in (MARKED[:3], (*MARKED, ("ce_shadowof", b"v1"))):
        record = FakeRecord(value=b"{}", headers=headers)
        read = read_unidentified(record)
        assert rerouted_record(record, read, to_version="v1", names=Names(), lane=Lane.BULK) is None
