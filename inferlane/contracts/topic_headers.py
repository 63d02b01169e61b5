"""The headers of the records of each topic, as the AsyncAPI document describes them. Names come from the contracts."""

from dataclasses import dataclass
from typing import Any

from inferlane.contracts.callbacks import CALLBACK_ID, DUE, FIRST_TRIED, TRIES
from inferlane.contracts.dead_letters import HEADER_PREFIX
from inferlane.contracts.record import (
    CALLBACK_URL,
    CALLER,
    FALLBACK,
    FALLEN_BACK_FROM,
    JSON_LENGTH,
    MAX_NAME_BYTES,
    POSITION,
    PROOF,
    ROLLOUT,
    SHADOW_HEADERS,
    TRACE_PARENT,
)
from inferlane.contracts.results import Status

_TIME = {"type": "string", "format": "date-time"}
_NAME = {"type": "string", "maxLength": MAX_NAME_BYTES}
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}
_TRACE = {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}


@dataclass(frozen=True, slots=True)
class Header:
    """One header: what it means, and what its value looks like as text."""

    name: str
    about: str
    schema: dict[str, Any]
    is_required: bool = False


def headers_schema(headers: tuple[Header, ...], *, open_ended: bool) -> dict[str, Any]:
    """Return the JSON Schema of these headers; `open_ended`: a record may have others."""
    return {
        "type": "object",
        "properties": {header.name: {"description": header.about, **header.schema} for header in headers},
        "required": [header.name for header in headers if header.is_required],
        "additionalProperties": open_ended,
    }


def event_type(kind: str) -> Header:
    """Return the header with the type of an Inferlane CloudEvent."""
    return Header("ce_type", "The type of the event.", {"const": f"io.inferlane.{kind}.v1"}, is_required=True)


def content(*types: str) -> Header:
    """Return the header with the content types that a value may have."""
    return Header("content-type", "The format of the value.", {"enum": list(types)})


SPEC = Header("ce_specversion", "CloudEvents 1.0, binary mode.", {"const": "1.0"})
_LENGTH = Header(JSON_LENGTH, "The length of the JSON part of a value with binary tensors.", _NUMBER)
_TRACED = Header(TRACE_PARENT, "W3C Trace Context.", _TRACE)

REQUEST = (
    SPEC,
    Header("ce_type", "The type of the event.", {"type": "string"}),
    Header("ce_id", "The request's id; a digest of the record and its position if missing.", _NAME),
    Header("ce_source", "The producer; equal ids of different sources are different requests.", {"type": "string"}),
    Header("ce_model", "The model; the default model if missing.", _NAME),
    Header("ce_modelversion", "Pins a version; the traffic split decides if missing.", _NAME),
    Header("ce_routingkey", "Requests with the same key get the same version.", {"type": "string", "maxLength": 2048}),
    Header("ce_time", "When it was accepted; the record's timestamp if missing.", _TIME),
    Header("ce_deadline", "After this time it ends EXPIRED.", _TIME),
    Header("ce_batchid", "Copied to the result, and its key.", _NAME),
    Header("ce_replyto", "The API process that waits.", _NAME),
    Header("ce_attempt", "Counted by replays, from 1.", _NUMBER),
    Header(
        CALLBACK_URL,
        "A URL to which the result is also POSTed.",
        {"type": "string", "format": "uri", "maxLength": 2048},
    ),
    Header(PROOF, "What binds the id of a request of the API to it. A secret.", {"type": "string"}),
    Header(CALLER, "The name of the API key that the request came with.", {"type": "string"}),
    Header("content-type", "The format of the value.", {"type": "string"}),
    _LENGTH,
    _TRACED,
)

# Headers that the router adds for the workers.
ROUTED = (
    *REQUEST,
    Header(POSITION, "Where the record lay in its request topic.", _NAME),
    Header(ROLLOUT, "The rollout that chose the version by chance.", _NAME),
    Header(FALLBACK, "The version that answers what this one fails.", _NAME),
    Header(FALLEN_BACK_FROM, "The version that failed it.", _NAME),
    *(Header(name, "Of shadow copies.", {"type": "string"}) for name in sorted(SHADOW_HEADERS)),
)

RESULT = (
    SPEC,
    event_type("result"),
    Header("ce_id", "The request's id.", {"type": "string"}, is_required=True),
    Header("ce_source", "The version that answered, as inferlane/<model>/<version>.", {"type": "string"}),
    Header("ce_model", "The model that answered.", {"type": "string"}, is_required=True),
    Header("ce_modelversion", "The version that answered.", {"type": "string"}, is_required=True),
    Header(
        "ce_status",
        "How the request ended.",
        {"enum": [status.value for status in Status if status.is_terminal]},
        is_required=True,
    ),
    Header("ce_batchid", "The batch id of the request.", _NAME),
    Header("ce_requestsource", "The source of the request, if it was no call of the API.", {"type": "string"}),
    Header(POSITION, "Where the request's record lies: <topic>-<partition>-<offset>.", _NAME),
    Header("ce_outcometoken", "What feedback on the prediction is sent with.", {"type": "string"}),
    Header("ce_errorcode", "Why it did not succeed.", {"type": "string"}),
    Header("ce_errordetail", "The same for people.", {"type": "string"}),
    content("application/json", "application/octet-stream"),
    _LENGTH,
    _TRACED,
)

CALLBACK = (
    SPEC,
    event_type("callback"),
    Header("ce_id", "The request's id.", {"type": "string"}, is_required=True),
    Header(CALLBACK_ID, "The `webhook-id`: the same at each try.", {"type": "string"}, is_required=True),
    Header("ce_source", "The version that answered.", {"type": "string"}),
    Header("ce_model", "The model that answered.", {"type": "string"}),
    Header("ce_modelversion", "The version that answered.", {"type": "string"}),
    Header("ce_time", "When the request ended.", _TIME, is_required=True),
    Header(CALLBACK_URL, "Where it is sent.", {"type": "string", "format": "uri"}, is_required=True),
    Header(CALLER, "The name of the API key whose secret signs it.", {"type": "string"}),
    content("application/json"),
    _TRACED,
)

CALLBACK_RETRY = (
    *CALLBACK,
    Header(TRIES, "How often it was tried.", _NUMBER, is_required=True),
    Header(FIRST_TRIED, "When it was tried first.", _TIME, is_required=True),
    Header(DUE, "When it is tried next.", _TIME, is_required=True),
)

DEAD_LETTER = (
    event_type("dead-letter"),
    *(
        Header(HEADER_PREFIX + name, about, schema, is_required=name in {"reason", "detail", "attempts", "topic"})
        for name, about, schema in (
            ("reason", "The error code.", {"type": "string"}),
            ("detail", "The same for people.", {"type": "string"}),
            ("attempts", "How often the record was tried.", _NUMBER),
            ("stack", "Where the error was raised.", {"type": "string"}),
            ("topic", "The topic of the record.", {"type": "string"}),
            ("partition", "Its partition.", {"type": "string", "pattern": "^-?[0-9]+$"}),
            ("offset", "Its offset.", {"type": "string", "pattern": "^-?[0-9]+$"}),
            (
                "timestamp",
                "Its timestamp in milliseconds, -1 without one.",
                {"type": "string", "pattern": "^-?[0-9]+$"},
            ),
            ("type", "Its own `ce_type`.", {"type": "string"}),
        )
    ),
)

OUTCOME = (content("application/json"),)

FEEDBACK = OUTCOME
