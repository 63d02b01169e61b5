"""A worker's summary of its work since the last one: the record of `inferlane.outcomes`, JSON with base64 sketches.

A worker sends at most one a second, keyed `<model>/<version>`. Everything in it can be added up or merged, so the
windows of a version do not depend on the order of the summaries, nor on which router adds them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from datasketches import tdigest_double

from inferlane.contracts.held_values import HeldValues
from inferlane.contracts.lane_tallies import MAX_TALLIES, LaneTally
from inferlane.contracts.results import Status
from inferlane.errors import UNDECODABLE, DecodeError, clipped, quoted

# Larger costs bytes, smaller costs accuracy. Measured on 100,000 lognormal values in 60 merges: the error of 200
# is 0.2 % of the ranks at the p95 and 0.02 % at the p99, in up to 4.3 KB; that of 100 is 0.6 % and 0.1 %, in 2.3 KB.
_COMPRESSION = 200


class Sketch:
    """A sketch that values are added to. One thread at a time."""

    def __init__(self) -> None:
        self._digest = tdigest_double(_COMPRESSION)
        self._held = HeldValues(self._digest.update)

    def update(self, values: np.ndarray) -> None:
        """Add finite values of any numeric dtype, shape `(n,)`. The array is kept for a while: do not change it."""
        self._held.hold(values)

    def to_bytes(self) -> bytes:
        """Return the sketch in the form in which it is sent."""
        self._held.release()
        return b"" if self._digest.is_empty() else bytes(self._digest.serialize())


def check_sketch(raw: bytes) -> None:
    """Check a sketch that another process wrote.

    Raises:
        DecodeError: the bytes are not a sketch, or hold values that are not finite.
    """
    _read(raw)


def merge_sketches(parts: Iterable[bytes]) -> bytes:
    """Return the sketch of all values of all parts.

    Raises:
        DecodeError: a part is no sketch.
    """
    held = [part for part in parts if part]
    if len(held) < 2:  # noqa: PLR2004 - one part is its own merge
        return held[0] if held else b""
    merged = tdigest_double(_COMPRESSION)
    for part in held:
        merged.merge(_read(part))
    return bytes(merged.serialize())


def quantiles(raw: bytes, ranks: Sequence[float]) -> list[float] | None:
    """Return the values at these ranks of [0, 1], or None of a sketch of no value.

    Raises:
        DecodeError: the bytes are no sketch.
    """
    digest = _read(raw)
    return None if digest.is_empty() else [digest.get_quantile(rank) for rank in ranks]


def _read(raw: bytes) -> tdigest_double:
    if not raw:
        return tdigest_double(_COMPRESSION)
    try:
        digest = tdigest_double.deserialize(raw)
        is_finite = digest.is_empty() or (math.isfinite(digest.get_min_value() + digest.get_max_value()))
    except (ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise DecodeError(f"{len(raw)} bytes are no t-digest: {error}") from error
    if not is_finite:
        raise DecodeError("a t-digest holds values that are not finite; leave NaN and infinity out of it")
    return digest


OLDEST_SCHEMA = 1
SCHEMA = 2
TERMINAL = frozenset(status.value for status in Status if status.is_terminal)

# Larger than any worker's count, and small enough that the sum of a window fits 64 bits.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# A worker cuts the labels of its model's classes to this; an empty one is a label too.
LABEL_CHARS = 200
Counts = Annotated[dict[Annotated[str, msgspec.Meta(max_length=LABEL_CHARS)], Count], msgspec.Meta(max_length=100_000)]


OTHER = "other"
"""A name past the bound of its set: of a label, or of what a window tells apart."""


class LatencySketches(msgspec.Struct, frozen=True, kw_only=True):
    """Sketches (`inferlane.contracts.outcomes`) in seconds, one value a request that succeeded.

    `queue_wait` is from acceptance to the start of inference, `inference` the run that the request was part of,
    `total` from acceptance to the finished result.
    """

    queue_wait: bytes = b""
    inference: bytes = b""
    total: bytes = b""

    def __post_init__(self) -> None:
        for sketch in (self.queue_wait, self.inference, self.total):
            check_sketch(sketch)


class OutcomeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's summary of `from_s` to `to_s` (seconds since the epoch, on the worker's clock).

    `worker_id` is new with each start of a process and `sequence` rises within it, so the pair names a summary.
    `outcomes` counts requests by terminal status, `failures` by error code, `classes` predicted rows by label;
    `values` is the sketch of a regression's predictions. `cpu_s` is what the process used since its last summary.
    `lanes` are the requests and shadow copies that a rollout compares; shadow copies count nowhere else.
    `failed_in_a_row` are the model errors since the last success, `is_halted` whether the worker fetches no more
    because its model fails.
    """

    schema: Annotated[int, msgspec.Meta(ge=OLDEST_SCHEMA, le=SCHEMA)] = SCHEMA
    model: Name
    version: Name
    worker_id: Name
    sequence: Count
    from_s: Amount
    to_s: Amount
    outcomes: dict[str, Count] = {}
    failures: Counts = {}
    batches: Count = 0
    rows: Count = 0
    latency: LatencySketches = LatencySketches()
    classes: Counts = {}
    values: bytes = b""
    cpu_s: Amount = 0.0
    memory_bytes: Count = 0
    # Since schema 2; a summary of schema 1 lacks these.
    lanes: Annotated[tuple[LaneTally, ...], msgspec.Meta(max_length=MAX_TALLIES)] = ()
    failed_in_a_row: Count = 0
    is_halted: bool = False

    def __post_init__(self) -> None:
        check_sketch(self.values)
        unknown = self.outcomes.keys() - TERMINAL
        if unknown:
            raise DecodeError(
                f"outcome {quoted(min(unknown))} is no terminal status; they are: {', '.join(sorted(TERMINAL))}"
            )


encode_summary = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(OutcomeSummary).decode


def decode_summary(raw: bytes) -> OutcomeSummary:
    """Read a record of the outcome topic.

    Raises:
        DecodeError: it holds no summary of this schema.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(
            f"a record of inferlane.outcomes holds no summary of schema {OLDEST_SCHEMA} to {SCHEMA}: "
            f"{clipped(str(error))}"
        ) from error
