"""The server-sent events of one request: what arrives, and how a stream that broke off goes on.

Source: the HTML Standard, section 9.2.6, "Interpreting an event stream".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from inferlane_client.answers import Prediction, Status, read_object, read_prediction, read_status
from inferlane_client.retries import (
    V1_FORM,
    HttpReply,
    NoReply,
    RetryingSender,
    Send,
    error_of,
    prediction_path,
    timed_out,
)

_LAST = "result"
# The server sends a comment every 15 s: a stream that is silent for longer than two of them is dead.
_LONGEST_SILENCE_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that became of a request: `name` is `queued`, or `result`, which is the last one.

    `id` names the result; None for `queued`. `document` is the body of `GET /v1/predictions/{id}`.
    """

    name: str
    id: str | None
    document: Mapping[str, Any]

    @property
    def status(self) -> Status:
        """Where the request is."""
        return read_status(self.document)

    def prediction(self) -> Prediction:
        """The result.

        Raises:
            Unsuccessful: the request ended without one, or another CallError that says why.
            UnexpectedAnswer: it has not ended.
        """
        return read_prediction(self.document, http_status=HTTPStatus.OK)


class EventStream:
    """The stream of a request, over as many connections as it takes: `opening`, `read` and `ended` for each of them."""

    def __init__(self, sender: RetryingSender, request_id: str, *, last_event_id: str | None, timeout_s: float) -> None:
        self._sender = sender
        self._request_id = request_id
        self._last_event_id = last_event_id
        self._deadline = sender.deadline(timeout_s)
        self._failures = 0
        self._reopen_after_s: float | None = None
        self._buffer = b""
        self._fields: dict[str, str] = {}
        self._seen: Event | None = None
        self._is_over = False

    def is_over(self) -> bool:
        """Whether there is no more to come."""
        return self._is_over

    def opening(self) -> Send:
        """The call that opens the stream, which says what of it is known already."""
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self._last_event_id is not None:
            headers["last-event-id"] = self._last_event_id
        # The time of a read, not of the stream, which `read` looks after.
        timeout_s = min(_LONGEST_SILENCE_S, max(1.0, self._deadline.left_s()))
        return Send(
            method="GET", path=f"{prediction_path(self._request_id)}/events", headers=headers, timeout_s=timeout_s
        )

    def read(self, chunk: bytes) -> list[Event]:
        """Take the next bytes of the stream; return the events that they complete.

        Raises:
            UnexpectedAnswer: the data of an event is no JSON object.
            TimedOut: the time is over, and the request has no result.
        """
        self._failures = 0
        # Lines end here and nowhere else: texts in the data may hold what Unicode counts as a line's end.
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode())
            if event is not None:
                events.append(event)
            if self._is_over:
                return events
        self._check_time()
        return events

    def _line(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        reopen_after_ms = fields.get("retry", "")
        if reopen_after_ms.isascii() and reopen_after_ms.isdigit():
            self._reopen_after_s = int(reopen_after_ms) / 1000
        if "data" not in fields:
            return None
        document = read_object(fields["data"].encode())
        event = Event(name=fields.get("event", "message"), id=fields.get("id"), document=document)
        self._last_event_id = event.id or self._last_event_id
        self._is_over = event.name == _LAST
        # A stream that is opened again begins anew.
        seen, self._seen = self._seen, event
        return None if event == seen else event

    def ended(self, outcome: HttpReply | NoReply | None) -> float:
        """Take what ended the stream, None where it just ended; return the seconds until it is to be opened again.

        Raises:
            CallError: it is of no use to open it again, or the time is over.
        """
        self._buffer, self._fields = b"", {}
        if isinstance(outcome, HttpReply) and outcome.status == HTTPStatus.NO_CONTENT:
            self._is_over = True
        if self._is_over:
            return 0.0
        retries, retry_after_s = self._sender.retries, self._reopen_after_s
        is_silence = isinstance(outcome, NoReply) and outcome.has_timed_out
        if outcome is not None and not is_silence:
            error = error_of(self.opening(), outcome, self._deadline, None, V1_FORM)
            retry_after_s = error.retry_after_s
            if not error.retryable or self._failures >= retries.limit:
                raise error
        delay_s = retries.delay_s(self._failures, retry_after_s)
        self._failures += 1
        self._check_time(delay_s)
        return delay_s

    def _check_time(self, needed_s: float = 0.0) -> None:
        if self._deadline.left_s() <= needed_s:
            what = f"request {self._request_id} has no result"
            raise timed_out(what, self._deadline, key=None, request_id=self._request_id)
