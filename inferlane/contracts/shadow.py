"""Shadow copies: requests that a second version infers too, to compare it with the answer that the client got. Pure.

The router marks a request (`ce_shadow`). The worker that answers it sends a copy, together with its answer, to the
bulk topic of the other version, whose worker compares the two. So a copy exists only of an answered request, and one
process has both sides of the comparison.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Annotated

import msgspec
import numpy as np

from inferlane.contracts.kafka_record import KafkaRecord, OutRecord, format_time
from inferlane.contracts.lane_tallies import row_time_s
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import ROLLOUT, SHADOW, SHADOW_HEADERS, SHADOW_OF, SHADOW_RUN, RequestHeaders
from inferlane.contracts.sticky_runs import STICKY_RECORDS
from inferlane.contracts.wire.v2 import decode_response, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import UNDECODABLE, DecodeError, clipped

MANUAL_RUN = "manual"
"""The run of copies that a split asks for without a rollout."""

_ANSWER, _ANSWER_LENGTH, _ROW_TIME = "ce_shadowanswer", "ce_shadowanswerlength", "ce_shadowrowtime"
_LABELS, _CLASSES = "ce_shadowlabels", "ce_shadowclasses"
_SOURCE = ("ce_source", b"inferlane-shadow")
# Headers that tie a record to its client, and headers that are written anew.
_DROPPED = frozenset({
    "ce_replyto", "ce_proof", "ce_caller", "ce_batchid", "ce_position", "ce_source", "ce_fallback", "ce_fallbackfrom",
    "ce_modelversion", "ce_deadline", "ce_attempt", "traceparent", *SHADOW_HEADERS,
})  # fmt: skip
# All the copies of a write go to one partition: it is then one batch of the broker and of the worker that compares.
_MAX_RUN_OF_COPIES = 64
# For copies of requests without a deadline. Longer keeps copies for a pool that is down, shorter loses them at a start.
_COPY_LIVES_S = 60.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the original's version answered: its outputs, and the seconds that it took for a row.

    A version with classes also says which class each row is (`labels`, None of others), and by `classes_digest` whether
    another one has the same classes in the same order, so that their scores can be compared.
    """

    outputs: dict[str, np.ndarray]
    row_time_s: float
    labels: tuple[str, ...] | None = None
    classes_digest: str = ""


def classes_digest(classes: Sequence[str]) -> str:
    """Return the digest of class names in their order; empty for no classes."""
    return blake2b(msgspec.json.encode(classes), digest_size=8).hexdigest() if classes else ""


def copy_deadline_s(headers: RequestHeaders, *, now_s: float) -> float:
    """Return when the copy of a request ends: at the deadline of its original, if that has one."""
    return headers.deadline_s if headers.deadline_s is not None else now_s + _COPY_LIVES_S


def copy_record(
    record: KafkaRecord, headers: RequestHeaders, answer: Answer, *, answered_by: str, names: Names, deadline_s: float
) -> OutRecord:
    """Return the copy of an answered request that is marked for a shadow, for the bulk topic of that version.

    It has nothing by which a result could reach a client. `deadline_s` is its `copy_deadline_s`.
    """
    content, length = encode_response(answer.outputs, model=headers.model or "", version=answered_by, form=ALL_AS_BYTES)
    kept = [(name, value) for name, value in record.headers if name not in _DROPPED]
    kept += [
        _SOURCE,
        ("ce_modelversion", (headers.shadow or "").encode()),
        ("ce_deadline", format_time(deadline_s)),
        (SHADOW_OF, answered_by.encode()),
        (SHADOW_RUN, (headers.shadow_run or headers.rollout or MANUAL_RUN).encode()),
        (_ANSWER, content),
        (_ANSWER_LENGTH, str(length).encode()),
        (_ROW_TIME, repr(answer.row_time_s).encode()),
    ]
    if answer.labels is not None:
        kept += [(_LABELS, msgspec.json.encode(answer.labels)), (_CLASSES, answer.classes_digest.encode())]
    topic = names.work_topic(headers.model or "", headers.shadow or "", Lane.BULK)
    return OutRecord(topic, headers.request_id.encode(), record.value or b"", kept, max_run=_MAX_RUN_OF_COPIES)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions of a model that are compared on recorded requests, and the run that the result is kept under."""

    model: str
    stable: str
    shadow: str
    run: str


def recorded_copy(
    record: KafkaRecord, headers: RequestHeaders, comparison: Comparison, *, names: Names, deadline_s: float
) -> OutRecord:
    """A recorded request as a copy for the stable version, whose worker sends it on to the other with its answer.

    Neither result reaches a client.
    """
    kept = [(name, value) for name, value in record.headers if name not in _DROPPED | {"ce_model", ROLLOUT}]
    named = {name for name, value in kept if value}
    if "ce_id" not in named:
        kept = [header for header in kept if header[0] != "ce_id"] + [("ce_id", headers.request_id.encode())]
    kept += [
        _SOURCE,
        ("ce_model", comparison.model.encode()),
        ("ce_modelversion", comparison.stable.encode()),
        ("ce_deadline", format_time(deadline_s)),
        (SHADOW, comparison.shadow.encode()),
        (SHADOW_OF, b"record"),
        (SHADOW_RUN, comparison.run.encode()),
    ]
    topic = names.work_topic(comparison.model, comparison.stable, Lane.BULK)
    return OutRecord(topic, headers.request_id.encode(), record.value or b"", kept, max_run=STICKY_RECORDS)


_decode_labels = msgspec.json.Decoder(tuple[str, ...]).decode


def answer_of(record: KafkaRecord) -> Answer | None:
    """Return the answer that a copy carries; None for a recorded request that nobody has answered.

    Raises:
        DecodeError: it carries something else.
    """
    named = dict(record.headers)
    content, length, row_time = named.get(_ANSWER), named.get(_ANSWER_LENGTH), named.get(_ROW_TIME)
    if content is None:
        return None
    try:
        labels = named.get(_LABELS)
        return Answer(
            outputs=decode_response(content, int(length or b"")),
            row_time_s=float(row_time or b"0"),
            labels=None if labels is None else _decode_labels(labels),
            classes_digest=(named.get(_CLASSES) or b"").decode(),
        )
    except (ValueError, *UNDECODABLE) as error:
        raise DecodeError(f"the answer on a shadow copy cannot be read: {clipped(str(error))}") from error


Count = Annotated[int, msgspec.Meta(ge=0)]


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """One row on which two versions differ. `distance` is 0 to 1; `inputs` are the first values of each tensor."""

    request_id: str
    row: int
    at_s: float
    distance: float
    original: str
    shadow: str
    inputs: dict[str, list[float | int | str | bool | None]] = {}


class ShadowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What can be added up of a version's shadow copies.

    `failures` counts copies that failed, by error code. `compared` and `agreed` are rows; `distance` is the sum over
    the compared rows. `times` and `original_times` are runs by bin of their time a row (`row_time_s`).
    """

    copies: int = 0
    failed: int = 0
    expired: int = 0
    compared: int = 0
    agreed: int = 0
    distance: float = 0.0
    failures: dict[str, int] = {}
    times: dict[int, int] = {}
    original_times: dict[int, int] = {}


def sum_of(parts: Sequence[ShadowCounts]) -> ShadowCounts:
    """Return the counts of all parts together."""
    failures, times, original_times = Counter[str](), Counter[int](), Counter[int]()
    for part in parts:
        failures.update(part.failures)
        times.update(part.times)
        original_times.update(part.original_times)
    return ShadowCounts(
        copies=sum(part.copies for part in parts),
        failed=sum(part.failed for part in parts),
        expired=sum(part.expired for part in parts),
        compared=sum(part.compared for part in parts),
        agreed=sum(part.agreed for part in parts),
        distance=sum(part.distance for part in parts),
        failures=dict(failures),
        times=dict(times),
        original_times=dict(original_times),
    )


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the copies of one run said about a version. Shares and times are None where nothing was compared."""

    model: str
    version: str
    run: str
    copies: int
    failed: int
    expired: int
    failures: dict[str, int]
    compared_rows: int
    agreement: float | None
    mean_distance: float | None
    row_time_ms_p50: float | None
    original_row_time_ms_p50: float | None
    row_time_ms_p95: float | None
    original_row_time_ms_p95: float | None
    disagreements: tuple[Disagreement, ...] = ()


def report_of(
    counts: ShadowCounts, disagreements: tuple[Disagreement, ...], *, model: str, version: str, run: str
) -> ShadowReport:
    """Return what the counts say."""
    rows = counts.compared
    return ShadowReport(
        model=model,
        version=version,
        run=run,
        copies=counts.copies,
        failed=counts.failed,
        expired=counts.expired,
        failures=counts.failures,
        compared_rows=rows,
        agreement=counts.agreed / rows if rows else None,
        mean_distance=counts.distance / rows if rows else None,
        row_time_ms_p50=_quantile_ms(counts.times, 0.5),
        original_row_time_ms_p50=_quantile_ms(counts.original_times, 0.5),
        row_time_ms_p95=_quantile_ms(counts.times, 0.95),
        original_row_time_ms_p95=_quantile_ms(counts.original_times, 0.95),
        disagreements=disagreements,
    )


def _quantile_ms(times: Mapping[int, int], rank: float) -> float | None:
    left = rank * sum(times.values())
    for time_bin in sorted(times):
        left -= times[time_bin]
        if left <= 0:
            return row_time_s(time_bin) * 1000
    return None


encode_disagreement = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Disagreement).decode


def decode_disagreement(raw: bytes) -> Disagreement:
    """Read a stored row.

    Raises:
        DecodeError: the bytes cannot be decoded.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"stored bytes hold no disagreement: {clipped(str(error))}") from error
