"""The event stream of a request: what is yielded, and how a stream that broke off goes on; of both clients."""

import json
from typing import Any

import pytest

from inferlane_client import Cancelled, NotFound, Overloaded, Retries, Status, TimedOut, UnexpectedAnswer
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer

RESULT = {
    "request_id": "r1",
    "status": "SUCCEEDED",
    "model": "iris",
    "version": "v1",
    # A text with what Unicode, and not the format of the stream, counts as the end of a line.
    "predictions": ["seto\u2028sa\x85"],
    "timings_ms": {"queue_wait": 1.0, "inference": 0.5, "total": 2.0},
}
QUEUED = {"request_id": "r1", "status": "QUEUED", "model": "iris"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


def event(name: str, document: Any, id_line: str = "") -> str:
    return f"{id_line}event: {name}\ndata: {json.dumps(document, ensure_ascii=False)}\n\n"


def stream(*events: str) -> Scripted:
    return Scripted(document="".join(events).encode(), headers=EVENTS)


FIRST = event("queued", QUEUED)
LAST = event("result", RESULT, "id: 1-5.25\n")
COMMENT = ": keep-alive\n\n"
OVERLOADED = Scripted(status=503, document={"code": "overloaded", "detail": "d", "retryable": True})


def test_events_are_yielded_up_to_the_result(server: ScriptedServer, ask: Ask) -> None:
    server.will(stream(FIRST, COMMENT, LAST, event("queued", {"status": "never"})))
    queued, result = ask(server.url, lambda client: client.handle("r/1").events(), api_key="secret")
    assert (queued.name, queued.id, queued.status) == ("queued", None, Status.QUEUED)
    assert (result.name, result.id, result.status) == ("result", "1-5.25", Status.SUCCEEDED)
    assert result.prediction().predictions == RESULT["predictions"]
    (call,) = server.seen
    assert call.path == "/v1/predictions/r/1/events"
    assert (call.headers["accept"], call.headers["authorization"]) == ("text/event-stream", "Bearer secret")
    assert "last-event-id" not in call.headers


def test_lines_may_end_as_the_standard_allows(server: ScriptedServer, ask: Ask) -> None:
    server.will(stream(LAST.replace("\n", "\r\n")))
    (result,) = ask(server.url, lambda client: client.handle("r1").events())
    assert (result.name, result.id) == ("result", "1-5.25")


def test_a_stream_that_breaks_off_is_opened_again_and_says_nothing_twice(server: ScriptedServer, ask: Ask) -> None:
    half = stream(FIRST, LAST[:40])
    server.will(stream(FIRST), half, Scripted(), OVERLOADED, stream(FIRST, COMMENT), stream(FIRST, LAST))
    events = ask(server.url, lambda client: client.handle("r1").events())
    assert [each.name for each in events] == ["queued", "result"]
    assert len(server.seen) == 6


def test_the_last_id_is_named_when_the_stream_is_opened_again(server: ScriptedServer, ask: Ask) -> None:
    server.will(stream(event("running", QUEUED, "id: 7\n")), stream(LAST))
    events = ask(server.url, lambda client: client.handle("r1").events(last_event_id="3"))
    assert [each.id for each in events] == ["7", "1-5.25"]
    assert [call.headers["last-event-id"] for call in server.seen] == ["3", "7"]


def test_a_stream_is_opened_again_after_the_time_that_the_server_names(server: ScriptedServer, ask: Ask) -> None:
    server.will(stream(": no store\nretry: 20\n\n"), stream("retry: 3000\n\n"))
    retries = Retries(limit=2, first_s=0, longest_s=0)
    with pytest.raises(TimedOut):
        ask(server.url, lambda client: client.handle("r1").events(timeout_s=2), retries=retries)
    assert len(server.seen) == 2


def test_who_has_the_result_gets_no_event(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(status=204, document=b""))
    assert list(ask(server.url, lambda client: client.handle("r1").events(last_event_id="1-5.25"))) == []
    assert server.seen[0].headers["last-event-id"] == "1-5.25"


def test_the_event_of_a_request_that_failed_raises_why(server: ScriptedServer, ask: Ask) -> None:
    document = {"request_id": "r1", "status": "FAILED", "error": {"code": "cancelled", "detail": "d"}}
    server.will(stream(event("result", document)))
    (result,) = ask(server.url, lambda client: client.handle("r1").events())
    assert result.status is Status.FAILED
    with pytest.raises(Cancelled):
        result.prediction()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Scripted(status=404, document={"code": "unknown_prediction", "detail": "d"}), NotFound),
        (Scripted(document=b"<html>", headers={"content-type": "text/html"}), UnexpectedAnswer),
        (stream("data: <html>\n\n"), UnexpectedAnswer),
    ],
)
def test_what_no_new_stream_mends_is_raised_at_once(
    server: ScriptedServer, ask: Ask, answer: Scripted, kind: type[Exception]
) -> None:
    server.will(answer)
    with pytest.raises(kind):
        ask(server.url, lambda client: client.handle("r1").events())
    assert len(server.seen) == 1


def test_refusals_have_a_limit_and_time_has_too(server: ScriptedServer, ask: Ask) -> None:
    server.will(OVERLOADED)
    retries = Retries(limit=2, first_s=0, longest_s=0)
    with pytest.raises(Overloaded):
        ask(server.url, lambda client: client.handle("r1").events(), retries=retries)
    assert len(server.seen) == 3
    server.will(stream(FIRST))
    with pytest.raises(TimedOut, match="request r1 has no result within 0 s") as raised:
        ask(server.url, lambda client: client.handle("r1").events(timeout_s=0))
    assert raised.value.request_id == "r1"
