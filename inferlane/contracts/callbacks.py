"""Callbacks: results on their way to the URLs that their requests named, as records of the topics of callbacks.

The process that ends a request writes its callback before it commits the request, so no crash loses one. The value is
the body that is sent, byte for byte; the headers hold the URL, the API key whose secret signs it, and when it is due.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from inferlane.contracts.kafka_record import KafkaRecord, OutRecord, format_time, parse_time, refuse_unreadable
from inferlane.contracts.prediction_body import prediction_body
from inferlane.contracts.record import (
    CALLBACK_URL,
    CALLER,
    JSON_CONTENT,
    MAX_NAME_BYTES,
    SPEC_VERSION,
    TRACE_PARENT,
    YEAR_10000_S,
)
from inferlane.contracts.results import Result
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.errors import DecodeError, InferlaneError, clipped, quoted

CALLBACK_TYPE = ("ce_type", b"io.inferlane.callback.v1")
# The same at each try and after each crash: receivers recognise duplicates by it.
CALLBACK_ID = "ce_callbackid"
# The number of tries, the time of the first one, and when the next one is due.
TRIES = "ce_tries"
FIRST_TRIED = "ce_firsttried"
DUE = "ce_due"
# More than any callback is tried; a number without a bound could not be written again.
_MAX_TRIES = 1_000_000
_OF_RETRIES = frozenset({TRIES, FIRST_TRIED, DUE})

_encode_json = msgspec.json.Encoder().encode


class CallbackOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The URL to which a result is sent, and what a foreign producer said of its request."""

    url: str
    source: bytes = b""
    position: str | None = None
    batch_id: str | None = None
    trace_parent: bytes | None = None


def callback_record(topic: str, result: Result, order: CallbackOrder, *, classes: ClassNames) -> OutRecord:
    """Return the callback record of a terminal result; `classes` are the names of its class indices, by output."""
    try:
        data = prediction_body(result, classes)
    except InferlaneError as error:
        data = _without_predictions(result, error)
    return _record(topic, result, order, data)


def short_callback_record(topic: str, result: Result, order: CallbackOrder, error: InferlaneError) -> OutRecord:
    """Return the same without the predictions, for a result whose callback no record can hold."""
    return _record(topic, result, order, _without_predictions(result, error))


def _without_predictions(result: Result, error: InferlaneError) -> dict[str, Any]:
    without = prediction_body(msgspec.structs.replace(result, status=result.status.FAILED), NO_NAMES)
    detail = f"{error}; the predictions are left out here, read them at GET /v1/predictions/{result.request_id}"
    return without | {"status": result.status.value, "error": {"code": error.code, "detail": detail}}


def _record(topic: str, result: Result, order: CallbackOrder, data: dict[str, Any]) -> OutRecord:
    is_foreign = bool(result.foreign_key)
    if is_foreign:
        data["source"] = order.source.decode(errors="replace")
        data["position"] = order.position
    if order.batch_id is not None:
        data["batch_id"] = order.batch_id
    # A foreign record may name any id; its type tells receivers that the request was not made over HTTP.
    kind = "record" if is_foreign else "prediction"
    body = {
        "type": f"{kind}.{result.status.value.lower()}",
        "timestamp": format_time(result.finished_s).decode(),
        "data": data,
    }
    headers = [
        SPEC_VERSION,
        CALLBACK_TYPE,
        ("ce_id", result.request_id.encode()),
        (CALLBACK_ID, f"{result.key}-{result.attempt}".encode()),
        ("ce_source", f"inferlane/{result.model}/{result.version}".encode()),
        ("ce_model", result.model.encode()),
        ("ce_modelversion", result.version.encode()),
        ("ce_time", format_time(result.finished_s)),
        ("content-type", JSON_CONTENT),
        (CALLBACK_URL, order.url.encode()),
    ]
    if result.caller:
        headers.append((CALLER, result.caller.encode()))
    if order.trace_parent is not None:
        headers.append((TRACE_PARENT, order.trace_parent))
    return OutRecord(topic, _key_of(order.url), _encode_json(body), headers)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is sent to a receiver: `notice_id` is the same however often it is sent."""

    notice_id: str
    kind: str
    about: str
    model: str
    version: str
    at_s: float
    caller: str
    data: Any


def notice_record(topic: str, url: str, notice: Notice) -> OutRecord:
    """Return the record of a notice; it is signed and retried like the callback of a result."""
    body = {"type": notice.kind, "timestamp": format_time(notice.at_s).decode(), "data": notice.data}
    headers = [
        SPEC_VERSION,
        CALLBACK_TYPE,
        ("ce_id", notice.about.encode()),
        (CALLBACK_ID, notice.notice_id.encode()),
        ("ce_source", f"inferlane/{notice.model}/{notice.version}".encode()),
        ("ce_model", notice.model.encode()),
        ("ce_modelversion", notice.version.encode()),
        ("ce_time", format_time(notice.at_s)),
        ("content-type", JSON_CONTENT),
        (CALLBACK_URL, url.encode()),
    ]
    if notice.caller:
        headers.append((CALLER, notice.caller.encode()))
    return OutRecord(topic, _key_of(url), _encode_json(body), headers)


def _key_of(url: str) -> bytes:
    """Scheme, host and port: only one process at a time calls a receiver, so the receiver's limits hold."""
    return "/".join(url.split("/", 3)[:3]).encode(errors="replace")[:MAX_NAME_BYTES]


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a topic of callbacks, as read. Times are seconds since the epoch."""

    callback_id: str
    request_id: str
    url: str
    # The name of the API key that sent the request, whose secret signs the callback; empty without one.
    caller: str
    body: bytes
    finished_s: float
    tries: int
    first_tried_s: float | None
    due_s: float


def read_callback(record: KafkaRecord) -> Callback:
    """Read a record of a topic of callbacks.

    Raises:
        DecodeError: the record is not a callback.
    """
    refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
    # A header may have no value at all.
    named: Mapping[str, bytes] = {name: value for name, value in record.headers if value}
    try:
        first_tried, due = named.get(FIRST_TRIED), named.get(DUE)
        callback_id = named[CALLBACK_ID].decode("ascii")
        if not callback_id.isprintable():
            raise ValueError(f"{CALLBACK_ID} is not printable")  # noqa: TRY301 - handled with the errors of decoding
        return Callback(
            callback_id=callback_id,
            request_id=named["ce_id"].decode(),
            url=named[CALLBACK_URL].decode(),
            caller=(named.get(CALLER) or b"").decode(),
            body=(record.value or b"").decode().encode(),
            finished_s=_time(named["ce_time"]),
            tries=_tries(named.get(TRIES) or b"0"),
            first_tried_s=_time(first_tried) if first_tried else None,
            due_s=_time(due) if due else 0.0,
        )
    except (KeyError, ValueError) as error:
        raise DecodeError(
            f"the record at offset {record.offset} of {record.topic} is no callback: {clipped(repr(error))}"
        ) from error


def _time(raw: bytes) -> float:
    seconds = parse_time(raw)
    if not 0 <= seconds < YEAR_10000_S:
        raise ValueError(f"the time {quoted(raw)} is not from 1970 to 9999")
    return seconds


def _tries(raw: bytes) -> int:
    tries = int(raw)
    if not 0 <= tries <= _MAX_TRIES:
        raise ValueError(f"{TRIES} is {quoted(raw)}; it counts from 0 to {_MAX_TRIES}")
    return tries


def retry_record(topic: str, record: KafkaRecord, *, tries: int, first_tried_s: float, due_s: float) -> OutRecord:
    """Return the record of a callback that is retried at `due_s`, seconds since the epoch."""
    headers: list[tuple[str, bytes]] = [header for header in record.headers if header[0] not in _OF_RETRIES]
    headers += [
        (TRIES, b"%d" % tries),
        (FIRST_TRIED, format_time(first_tried_s)),
        (DUE, format_time(due_s)),
    ]
    return OutRecord(topic, record.key or b"", record.value or b"", headers)


def fresh_headers(headers: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the headers of a callback that was never tried: what a replay of its dead letter sends."""
    return [header for header in headers if header[0] not in _OF_RETRIES]
