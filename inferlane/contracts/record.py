"""The request record: its Kafka headers, in CloudEvents 1.0 binary mode with our extensions.

Source: CloudEvents Kafka protocol binding 1.0.2, section 3.2 (headers carry a `ce_` prefix). All headers may be
missing on a record that somebody else produced; the defaults are those of `read_headers`.
"""

from collections import Counter
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from inferlane.contracts.identity import UNKNOWN_KEY, committed_id, default_id, foreign_key
from inferlane.contracts.kafka_record import Headers, KafkaRecord, parse_time, refuse_unreadable, valid_trace_parent
from inferlane.errors import DecodeError, clipped, quoted

SPEC_VERSION = ("ce_specversion", b"1.0")
REQUEST_TYPE = ("ce_type", b"io.inferlane.request.v1")
RESULT_TYPE = ("ce_type", b"io.inferlane.result.v1")
DEAD_LETTER_TYPE = ("ce_type", b"io.inferlane.dead-letter.v1")

JSON_CONTENT = b"application/json"
BINARY_CONTENT = b"application/octet-stream"
TRACE_PARENT = "traceparent"
# Open Inference Protocol, binary tensor data extension: the length of the JSON part in bytes.
JSON_LENGTH = "inference-header-content-length"
# The proof that the API made the record (`inferlane.contracts.identity`), and the API key of the call.
PROOF = "ce_proof"
CALLER = "ce_caller"
# The position in the request topic of a record of another producer; written by the router.
POSITION = "ce_position"
# The rollout that decided by chance which version the record went to; written by the router, and only then. A record
# that moves on to another version loses this header: there it is no fair sample.
ROLLOUT = "ce_rollout"
# Written by the router on a record of a version under trial: the version that answers what that one fails.
FALLBACK = "ce_fallback"
# Written by the worker that failed, on the record for the fallback version, which therefore never falls back again.
FALLEN_BACK_FROM = "ce_fallbackfrom"
# Of shadow copies (`inferlane.contracts.shadow`): which version gets a copy of this record once it is answered; of
# which version's answer this record is a copy; and what its comparison is added to.
SHADOW = "ce_shadow"
SHADOW_OF = "ce_shadowof"
SHADOW_RUN = "ce_shadowrun"
SHADOW_HEADERS = frozenset(
    {SHADOW, SHADOW_OF, SHADOW_RUN, "ce_shadowanswer", "ce_shadowanswerlength", "ce_shadowrowtime"}
    | {"ce_shadowlabels", "ce_shadowclasses"}
)
# Where the sender of a request wants its result sent.
CALLBACK_URL = "ce_callbackurl"


def fixed_request_headers(*, source: str, model: str) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that every binary request of one producer to one model shares."""
    return (
        SPEC_VERSION,
        REQUEST_TYPE,
        ("ce_source", source.encode()),
        ("content-type", BINARY_CONTENT),
        ("ce_model", model.encode()),
    )


# Ids and names are copied into keys, headers, channels and results, some of them twice: long ones would make a result
# too large to write.
MAX_NAME_BYTES = 512
# The API's limit in characters, at the four bytes that UTF-8 may take for each.
_MAX_ROUTING_KEY_BYTES = 4 * 512
_MAX_CALLBACK_URL_BYTES = 2_048
_MAX_ATTEMPT = 1_000_000
# What steers a request beside the attributes of its CloudEvent.
_OURS = frozenset({JSON_LENGTH, "content-type"})
# What the router and other workers say of a record of a version under trial.
_OF_TRIALS = frozenset({ROLLOUT, FALLBACK, SHADOW, SHADOW_OF, SHADOW_RUN})
YEAR_10000_S = 253_402_300_800


class RequestHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a request record: what its headers, key and position say.

    `model` and `version` are None where the producer left the choice to the router; times are seconds since the epoch.
    `trace_parent` is None also where it was malformed.
    """

    request_id: str
    model: str | None
    version: str | None
    accepted_s: float
    deadline_s: float | None
    reply_to: str | None
    routing_key: str | None
    attempt: int
    batch_id: str | None
    json_length: int | None
    trace_parent: bytes | None = None
    # From `identified`: the key of its result in the store, and the name of the API key that sent it, empty for none.
    key: str = UNKNOWN_KEY
    caller: str = ""
    # What a foreign producer said of itself, and where its record lay.
    source: bytes = b""
    position: str | None = None
    # The rollout that the record counts in, if one does.
    rollout: str | None = None
    # The version that answers what this one fails (`inferlane.contracts.fallback`).
    fallback: str | None = None
    # Of shadow copies: as their headers.
    shadow: str | None = None
    shadow_of: str | None = None
    shadow_run: str | None = None
    # Where the sender wants the result; never of a shadow copy.
    callback_url: str | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it is a shadow copy: no client gets its result."""
        return self.shadow_of is not None


def read_headers(record: KafkaRecord) -> RequestHeaders:
    """Read the headers of a request record and identify its sender; missing headers get their defaults.

    The default id is a digest of the record and its position, the default acceptance time the record's timestamp.
    Reads the payload; to find out only where a record goes, call `read_unidentified`.

    Raises:
        DecodeError: a header that is there does not hold what it must.
    """
    named = _named(record)
    return _identified(_read(record, named), record, named)


def identified(headers: RequestHeaders, record: KafkaRecord) -> RequestHeaders:
    """Return the headers with `key` and `caller`. Only a record with the API's proof may name a waiter."""
    return _identified(headers, record, dict(record.headers))


def _identified(headers: RequestHeaders, record: KafkaRecord, named: Mapping[str, bytes]) -> RequestHeaders:
    payload = record.value or b""
    proof = named.get(PROOF)
    if proof:
        caller = named.get(CALLER) or b""
        source, model = named.get("ce_source") or b"", named.get("ce_model") or b""
        committed = committed_id(proof, source=source, caller=caller, model=model, payload=payload)
        if committed == headers.request_id:
            return replace(headers, key=committed, caller=caller.decode(errors="replace"))
    source = named.get("ce_source") or b""
    return replace(
        headers,
        key=foreign_key(source, headers.request_id, payload),
        reply_to=None,
        source=source[:MAX_NAME_BYTES],
        position=(named.get(POSITION) or b"")[:MAX_NAME_BYTES].decode(errors="replace") or position_of(record),
    )


def read_unidentified(record: KafkaRecord) -> RequestHeaders:
    """Read the headers alone: `reply_to` is what the record claims, and `key` is that of no request.

    Raises:
        DecodeError: a header that is there does not hold what it must, or the record stands for an unreadable batch.
    """
    return _read(record, _named(record))


def _named(record: KafkaRecord) -> Mapping[str, bytes]:
    """Return the headers by name.

    Raises:
        DecodeError: one of ours is repeated, or the record stands for an unreadable batch.
    """
    refuse_unreadable(record.topic, record.partition, record.offset, record.headers)
    named = dict(record.headers)
    if len(named) != len(record.headers) and (repeated := _repeated(record.headers)):
        raise DecodeError(
            f"the record has the header {quoted(min(repeated))} more than once, so it is not clear which one counts; "
            "send it once"
        )
    return named


def _read(record: KafkaRecord, named: Mapping[str, bytes]) -> RequestHeaders:
    get = named.get
    try:
        request_id = get("ce_id")
        accepted = get("ce_time")
        deadline = get("ce_deadline")
        attempt = get("ce_attempt")
        json_length = get(JSON_LENGTH)
        callback_url = get(CALLBACK_URL)
        trace_parent = get(TRACE_PARENT)
        headers = RequestHeaders(
            request_id=_name("ce_id", request_id) or _default_id(record),
            model=_name("ce_model", get("ce_model")),
            version=_name("ce_modelversion", get("ce_modelversion")),
            accepted_s=parse_time(accepted) if accepted else _stamped_s(record),
            deadline_s=parse_time(deadline) if deadline else None,
            reply_to=_name("ce_replyto", get("ce_replyto")),
            routing_key=_name("ce_routingkey", get("ce_routingkey"), limit_bytes=_MAX_ROUTING_KEY_BYTES),
            attempt=_attempt(attempt) if attempt else 1,
            batch_id=_name("ce_batchid", get("ce_batchid")),
            json_length=int(json_length) if json_length else None,
            trace_parent=valid_trace_parent(trace_parent) if trace_parent else None,
            callback_url=_name(CALLBACK_URL, callback_url, limit_bytes=_MAX_CALLBACK_URL_BYTES)
            if callback_url and not get(SHADOW_OF)
            else None,
        )
        # Most records have none of them, and this costs half as much as looking up each.
        return headers if named.keys().isdisjoint(_OF_TRIALS) else _with_trial(headers, named)
    except (ValueError, UnicodeDecodeError) as error:
        raise DecodeError(
            f"a header of the record cannot be read: {clipped(str(error))}; docs/topics.md has each format"
        ) from error


def _with_trial(headers: RequestHeaders, named: Mapping[str, bytes]) -> RequestHeaders:
    return replace(
        headers,
        rollout=_name(ROLLOUT, named.get(ROLLOUT)),
        fallback=_name(FALLBACK, named.get(FALLBACK)),
        shadow=_name(SHADOW, named.get(SHADOW)),
        shadow_of=_name(SHADOW_OF, named.get(SHADOW_OF)),
        shadow_run=_name(SHADOW_RUN, named.get(SHADOW_RUN)),
    )


def default_headers(record: KafkaRecord) -> RequestHeaders:
    """Return the headers under which a record is answered whose own cannot be read: its id and waiter if those can."""
    repeated = _repeated(record.headers)
    named = {
        name: value[:MAX_NAME_BYTES].decode(errors="replace")
        for name, value in record.headers
        if value and name not in repeated
    }
    url = b"" if CALLBACK_URL in repeated else dict(record.headers).get(CALLBACK_URL) or b""
    headers = RequestHeaders(
        request_id=named.get("ce_id") or _default_id(record),
        model=None,
        version=None,
        accepted_s=_stamped_s(record),
        deadline_s=None,
        reply_to=named.get("ce_replyto"),
        routing_key=None,
        attempt=1,
        batch_id=named.get("ce_batchid"),
        json_length=None,
        trace_parent=valid_trace_parent(dict(record.headers).get(TRACE_PARENT)),
        shadow_of=named.get(SHADOW_OF),
        callback_url=url.decode(errors="replace") if _is_callback(url, named) else None,
    )
    return identified(headers, record)


def _is_callback(url: bytes, named: Mapping[str, str]) -> bool:
    return 0 < len(url) <= _MAX_CALLBACK_URL_BYTES and not named.get(SHADOW_OF)


def _repeated(headers: Headers) -> set[str]:
    """Return our headers that are repeated: readers differ in which one they take."""
    counts = Counter(name for name, _ in headers)
    return {name for name, count in counts.items() if count > 1 and (name.startswith("ce_") or name in _OURS)}


def _name(header: str, raw: bytes | None, *, limit_bytes: int = MAX_NAME_BYTES) -> str | None:
    if not raw:
        return None
    if len(raw) > limit_bytes:
        raise ValueError(f"{header} has {len(raw)} bytes, the limit is {limit_bytes}")
    return raw.decode()


def _attempt(raw: bytes) -> int:
    attempt = int(raw)
    if not 1 <= attempt <= _MAX_ATTEMPT:
        raise ValueError(f"ce_attempt is {attempt}; it counts from 1 to {_MAX_ATTEMPT}")
    return attempt


def _stamped_s(record: KafkaRecord) -> float:
    """Return the record's timestamp; one that no calendar holds (such as microseconds) counts as the epoch."""
    seconds = record.timestamp / 1000
    return seconds if 0 <= seconds < YEAR_10000_S else 0.0


def position_of(record: KafkaRecord) -> str:
    """Return where the record lies: `<topic>-<partition>-<offset>`."""
    return f"{record.topic}-{record.partition}-{record.offset}"


def _default_id(record: KafkaRecord) -> str:
    place = f"{position_of(record)} {record.timestamp}".encode()
    return default_id(place, record.key or b"", record.value or b"")
