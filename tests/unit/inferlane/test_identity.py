"""Whose a request is: an id belongs to the API's own record alone, and a foreign one to its source and payload."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.identity import FOREIGN, UNKNOWN_KEY, committed_id, is_own_id, make_proof, name_of
from inferlane.contracts.record import (
    CALLER,
    POSITION,
    PROOF,
    RequestHeaders,
    default_headers,
    read_headers,
    read_unidentified,
)
from tests.support.fakes.records import FakeRecord

Headers = dict[str, bytes]
PAYLOAD = b'{"instances": [[1, 2, 3, 4]]}'


def own_record(payload: bytes = PAYLOAD, caller: bytes = b"shop") -> FakeRecord:
    """A request record as the API makes it."""
    proof = make_proof()
    request_id = committed_id(proof, source=b"inferlane/api", caller=caller, model=b"iris", payload=payload)
    headers = {
        "ce_source": b"inferlane/api",
        "ce_model": b"iris",
        "ce_id": request_id.encode(),
        "ce_replyto": b"api-1",
        PROOF: proof,
        CALLER: caller,
    }
    return FakeRecord(value=payload, headers=tuple(headers.items()))


def forged(change: Callable[[Headers], None], *, value: bytes = PAYLOAD) -> tuple[FakeRecord, FakeRecord]:
    """A record of the API, and what somebody makes of it who has seen all of it."""
    own = own_record()
    headers = dict(own.headers)
    change(headers)
    return own, FakeRecord(value=value, headers=tuple(headers.items()))


def test_the_apis_own_record_is_known_by_its_id_and_has_one_who_waits() -> None:
    record = own_record()
    headers = read_headers(record)
    assert headers.key == headers.request_id
    assert (headers.caller, headers.reply_to, headers.position) == ("shop", "api-1", None)
    assert is_own_id(headers.request_id)


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers.pop(PROOF),
        lambda headers: headers.update({PROOF: b""}),
        lambda headers: headers.update({PROOF: b"\xff" * 16}),
        lambda headers: headers.update({PROOF: make_proof()}),
        lambda headers: headers.update({"ce_source": b"elsewhere"}),
        lambda headers: headers.pop("ce_source"),
        lambda headers: headers.update({CALLER: b"somebody"}),
        lambda headers: headers.update({"ce_model": b"other"}),
    ],
)
@pytest.mark.parametrize("read", [read_headers, default_headers])
def test_the_same_id_from_elsewhere_is_another_request(
    change: Callable[[Headers], None], read: Callable[[FakeRecord], RequestHeaders]
) -> None:
    """Guards the comparison in `identified`: taken out, the id's owner reads the answer to another's question."""
    own, other = forged(change)
    headers = read(other)
    assert headers.request_id == read(own).request_id == read(own).key
    assert headers.key.startswith(FOREIGN)
    # Nor is anybody woken with it, or asked for in the name of a key.
    assert (headers.reply_to, headers.caller) == (None, "")


@given(st.binary(max_size=50))
def test_the_same_headers_with_another_payload_are_another_request(payload: bytes) -> None:
    own, other = forged(lambda _: None, value=payload)
    assert (read_headers(other).key == read_headers(own).key) == (payload == PAYLOAD)


@given(st.lists(st.tuples(st.binary(max_size=4), st.text(max_size=4), st.binary(max_size=4)), min_size=2, max_size=2))
def test_a_foreign_request_is_its_source_its_id_and_its_payload(asked: list[tuple[bytes, str, bytes]]) -> None:
    """No two of them share a result, and each has the one that it had when it is delivered again."""
    keys = [
        read_headers(
            FakeRecord(value=payload, headers=(("ce_source", source), ("ce_id", f"x{request_id}".encode())))
        ).key
        for source, request_id, payload in asked
    ]
    assert (keys[0] == keys[1]) == (asked[0] == asked[1])
    assert (name_of(keys[0]) == name_of(keys[1])) == (asked[0][:2] == asked[1][:2])


def test_a_default_id_is_the_same_at_each_delivery_and_not_told_by_the_position() -> None:
    record = FakeRecord(value=PAYLOAD)
    request_id = read_headers(record).request_id
    assert read_headers(record).request_id == request_id
    assert "inferlane" not in request_id
    elsewhere = [
        FakeRecord(value=b"other"),
        FakeRecord(value=PAYLOAD, timestamp=1),
        FakeRecord(value=PAYLOAD, offset=8),
    ]
    assert request_id not in {read_headers(other).request_id for other in elsewhere}


def test_a_position_is_the_routers_word_or_where_the_record_lies() -> None:
    assert read_headers(FakeRecord()).position == "inferlane.requests-0-7"
    assert read_headers(FakeRecord(headers=((POSITION, b"inferlane.bulk-3-1"),))).position == "inferlane.bulk-3-1"


def test_headers_that_nobody_identified_are_no_requests() -> None:
    """So that a result made of them by mistake lands beside every id."""
    assert read_unidentified(own_record()).key == UNKNOWN_KEY
    assert not is_own_id(UNKNOWN_KEY)


def test_no_two_proofs_are_equal_whoever_draws_them() -> None:
    with ThreadPoolExecutor(8) as threads:
        drawn = [
            proof
            for proofs in threads.map(lambda _: [make_proof() for _ in range(1_000)], range(8))
            for proof in proofs
        ]
    assert len(set(drawn)) == len(drawn)
    assert {len(proof) for proof in drawn} == {32}


def test_a_forked_process_draws_other_proofs() -> None:
    make_proof()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"".join(make_proof() for _ in range(300)))
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as file:
        os.close(write)
        theirs = file.read()
    assert len(theirs) == 300 * 32
    assert not any(make_proof() in theirs for _ in range(300))
