"""What is sent again, what is not, and that a request is the same one each time; of both clients, over real HTTP."""

import json
from typing import Any

import pytest

from inferlane_client import (
    Cancelled,
    ConnectionFailed,
    Expired,
    Failed,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    KeyReused,
    NotFound,
    Overloaded,
    Retries,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer

ROWS = [[5.1, 3.5, 1.4, 0.2]]
RESULT = {
    "request_id": "r1",
    "status": "SUCCEEDED",
    "model": "iris",
    "version": "v1",
    "predictions": [{"label": "setosa"}],
    "timings_ms": {"queue_wait": 1.0, "inference": 0.5, "total": 2.0},
}
QUEUED = {"request_id": "r1", "status": "QUEUED", "location": "/v1/predictions/r1"}
DONE = Scripted(document=RESULT)
ACCEPTED = Scripted(status=202, document=QUEUED)
NO_ANSWER = Scripted()


def refused(status: int, code: str, *, headers: dict[str, str] | None = None, **more: Any) -> Scripted:
    document = {"title": "A title", "status": status, "detail": "a detail", "code": code, "retryable": False, **more}
    return Scripted(status=status, document=document, headers=headers or {})


OVERLOADED = refused(503, "overloaded", retryable=True)


@pytest.mark.parametrize(
    "first",
    [
        OVERLOADED,
        refused(429, "too_many_pipelined", retryable=True),
        Scripted(status=502, document=b"<html>bad gateway</html>"),
        NO_ANSWER,
    ],
    ids=["overloaded", "too many", "a proxy's", "no answer"],
)
def test_a_call_that_was_not_taken_is_sent_again_as_the_same_request(
    server: ScriptedServer, ask: Ask, first: Scripted
) -> None:
    server.will(first, first, DONE)
    result = ask(server.url, lambda client: client.predict(ROWS, model="iris", routing_key="k"))
    assert (result.request_id, result.predictions) == ("r1", [{"label": "setosa"}])
    assert len(server.seen) == 3
    assert len({(call.headers["idempotency-key"], call.body) for call in server.seen}) == 1
    assert json.loads(server.seen[0].body) == {"instances": ROWS, "model": "iris", "routing_key": "k"}


def test_each_request_has_a_key_of_its_own_unless_told(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    ask(server.url, lambda client: client.predict(ROWS))
    ask(server.url, lambda client: client.predict(ROWS))
    ask(server.url, lambda client: client.predict(ROWS, idempotency_key="order-42"))
    first, second, third = (call.headers["idempotency-key"] for call in server.seen)
    assert first != second
    assert third == "order-42"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused(422, "invalid_input"), InvalidInput),
        (refused(400, "undecodable"), InvalidInput),
        (refused(422, "invalid_parameter"), InvalidRequest),
        (refused(422, "idempotency_key_reused"), KeyReused),
        (refused(413, "payload_too_large"), TooLarge),
        (refused(401, "unauthorized"), Unauthorized),
        (refused(403, "forbidden"), Forbidden),
        (refused(404, "unknown_model"), NotFound),
        (refused(503, "unusable_version"), Unavailable),
        (refused(504, "deadline_exceeded", request_id="r1", prediction_status="EXPIRED"), Expired),
        (refused(410, "cancelled", request_id="r1", prediction_status="FAILED"), Cancelled),
        # Ended, and not refused: the same key would bring the same answer for ever.
        (refused(503, "unavailable", request_id="r1", prediction_status="FAILED"), Failed),
        (refused(500, "model_error", request_id="r1", prediction_status="FAILED"), Failed),
        (Scripted(status=200, document=b"<html>"), UnexpectedAnswer),
        (Scripted(status=200, document={"status": "SUCCEEDED"}), UnexpectedAnswer),
        (Scripted(status=307, document={}), UnexpectedAnswer),
        (Scripted(status=404, document=b"not here"), NotFound),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_what_no_retry_mends_is_raised_at_once_as_its_kind(
    server: ScriptedServer, ask: Ask, answer: Scripted, kind: type[Exception]
) -> None:
    server.will(answer)
    with pytest.raises(kind) as raised:
        ask(server.url, lambda client: client.predict(ROWS))
    assert type(raised.value) is kind
    assert len(server.seen) == 1


def test_an_error_has_the_members_of_the_problem_document(server: ScriptedServer, ask: Ask) -> None:
    server.will(refused(503, "overloaded", retryable=True, headers={"retry-after": "7"}))
    with pytest.raises(Overloaded) as raised:
        ask(server.url, lambda client: client.predict(ROWS, idempotency_key="k"), retries=Retries(limit=0))
    error = raised.value
    assert (error.status, error.code, error.title, error.detail) == (503, "overloaded", "A title", "a detail")
    assert (error.retryable, error.retry_after_s, error.idempotency_key) == (True, 7, "k")
    assert str(error) == "A title: a detail (HTTP 503, overloaded)"


def test_a_server_that_wants_to_be_left_alone_for_longer_than_the_call_has_is_not_asked_again(
    server: ScriptedServer, ask: Ask
) -> None:
    server.will(refused(503, "overloaded", retryable=True, headers={"retry-after": "60"}), DONE)
    with pytest.raises(Overloaded):
        ask(server.url, lambda client: client.predict(ROWS, timeout_s=5))
    assert len(server.seen) == 1


def test_retries_have_a_limit(server: ScriptedServer, ask: Ask) -> None:
    server.will(OVERLOADED)
    with pytest.raises(Overloaded):
        ask(server.url, lambda client: client.predict(ROWS), retries=Retries(limit=3, first_s=0, longest_s=0))
    assert len(server.seen) == 4


def test_nobody_there_is_told_with_the_address(ask: Ask) -> None:
    with pytest.raises(ConnectionFailed, match="GET /v1/models") as raised:
        ask("http://127.0.0.1:1", lambda client: client.models(), retries=Retries(limit=1, first_s=0))
    assert raised.value.retryable


def test_an_accepted_request_is_waited_for_by_long_polls(server: ScriptedServer, ask: Ask) -> None:
    server.will(ACCEPTED, Scripted(document=QUEUED), OVERLOADED, NO_ANSWER, DONE)
    result = ask(server.url, lambda client: client.predict(ROWS, timeout_s=600))
    assert result.request_id == "r1"
    first, *polls = server.seen
    assert first.headers["prefer"] == "wait=30"
    assert [(poll.method, poll.path, poll.query) for poll in polls] == [
        ("GET", "/v1/predictions/r1", "wait_s=30.000")
    ] * 4


def test_a_wait_that_runs_out_names_the_request(server: ScriptedServer, ask: Ask) -> None:
    server.will(ACCEPTED, Scripted(document=QUEUED))
    with pytest.raises(TimedOut, match="request r1 has no result within 0 s") as raised:
        ask(server.url, lambda client: client.predict(ROWS, timeout_s=0))
    assert raised.value.request_id == "r1"
    assert raised.value.idempotency_key == server.seen[0].headers["idempotency-key"]
    assert not raised.value.retryable


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"status": "FAILED", "error": {"code": "model_error", "detail": "d"}}, Failed),
        ({"status": "FAILED", "error": {"code": "cancelled", "detail": "d"}}, Cancelled),
        ({"status": "FAILED", "error": {"code": "invalid_input", "detail": "d"}}, InvalidInput),
        ({"status": "EXPIRED", "error": {"code": "deadline_exceeded", "detail": "d"}}, Expired),
    ],
)
def test_a_request_that_ended_without_a_result_raises_the_kind_of_its_end(
    server: ScriptedServer, ask: Ask, document: dict[str, Any], kind: type[Exception]
) -> None:
    server.will(ACCEPTED, Scripted(document={"request_id": "r1", **document}))
    with pytest.raises(kind, match="d") as raised:
        ask(server.url, lambda client: client.predict(ROWS))
    assert type(raised.value) is kind


def test_submit_does_not_wait_and_its_handle_reads_and_cancels(server: ScriptedServer, ask: Ask) -> None:
    server.will(ACCEPTED)
    handle = ask(server.url, lambda client: client.submit(ROWS))
    assert (handle.request_id, server.seen[-1].headers["prefer"]) == ("r1", "respond-async")
    server.will(Scripted(document=QUEUED))
    assert ask(server.url, lambda client: client.handle("r1").status()) == "QUEUED"
    server.will(Scripted(document={"request_id": "r1", "status": "FAILED", "error": {"code": "cancelled"}}))
    assert ask(server.url, lambda client: client.handle("r1").cancel()) is True
    assert (server.seen[-1].method, server.seen[-1].path) == ("DELETE", "/v1/predictions/r1")
    server.will(DONE)
    assert ask(server.url, lambda client: client.handle("r1").cancel()) is False
    assert ask(server.url, lambda client: client.handle("r1").result()).version == "v1"


def test_submitting_again_what_has_failed_gives_its_handle(server: ScriptedServer, ask: Ask) -> None:
    server.will(refused(410, "cancelled", request_id="r7", prediction_status="FAILED"))
    assert ask(server.url, lambda client: client.submit(ROWS, idempotency_key="k")).request_id == "r7"


def test_ids_and_names_are_quoted_in_paths(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(document=QUEUED))
    ask(server.url, lambda client: client.handle("a/../b?c").status())
    assert (server.seen[0].path, server.seen[0].query) == ("/v1/predictions/a/../b?c", "")


def test_a_prefix_of_the_url_stays(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    ask(f"{server.url}/inferlane/", lambda client: client.predict(ROWS))
    assert server.seen[0].path == "/inferlane/v1/models/predict"


def test_the_key_is_sent_as_a_bearer_token(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    ask(server.url, lambda client: client.predict(ROWS), api_key="secret")
    assert server.seen[0].headers["authorization"] == "Bearer secret"


def test_a_split_is_read_and_set(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(document={"model": "iris", "weights": {"v1": 0.9, "v2": 0.1}, "changed_s": 5.0}))
    split = ask(server.url, lambda client: client.set_traffic_split({"v1": 90, "v2": 10}, model="iris"))
    assert (split.model, split.weights, split.changed_s) == ("iris", {"v1": 0.9, "v2": 0.1}, 5.0)
    assert json.loads(server.seen[0].body) == {"model": "iris", "weights": {"v1": 90, "v2": 10}}
    assert ask(server.url, lambda client: client.traffic_split("iris")) == split
    assert (server.seen[1].method, server.seen[1].query) == ("GET", "model=iris")


@pytest.mark.parametrize("key", ["", "clé", "a\nb"])
def test_a_key_of_a_request_that_no_header_can_hold_is_refused(server: ScriptedServer, ask: Ask, key: str) -> None:
    server.will(DONE)
    with pytest.raises(InvalidInput, match="the idempotency key"):
        ask(server.url, lambda client: client.predict(ROWS, idempotency_key=key))
    assert not server.seen


def test_a_call_may_have_all_the_time_there_is_and_no_time_that_is_no_number(server: ScriptedServer, ask: Ask) -> None:
    server.will(DONE)
    for timeout_s in (float("inf"), 1e12):
        assert ask(server.url, lambda client, time_s=timeout_s: client.predict(ROWS, timeout_s=time_s)).version == "v1"
    with pytest.raises(ValueError, match="timeout_s is nan"):
        ask(server.url, lambda client: client.predict(ROWS, timeout_s=float("nan")))


def test_an_url_without_a_scheme_is_refused(ask: Ask) -> None:
    with pytest.raises(ValueError, match="'localhost:8000'; it must begin with http"):
        ask("localhost:8000", lambda client: client.models())
