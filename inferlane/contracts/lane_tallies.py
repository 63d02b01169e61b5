"""Lane tallies: counts of the requests that a rollout's split routed, by lane; the rollout compares them. Pure.

The router marks such a request with the header `ce_rollout`. Pinned requests, and those that another version failed
first, have no mark and are not counted here: their version was not chosen at random. Shadow copies have it and are
counted apart (`is_shadow`).

Counts can be added up in any order while they hold no more names than the bound: past it the rarest are left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from inferlane.contracts.naming import Lane
from inferlane.errors import DecodeError

BUCKETS = 1024
_COLUMNS = 3
_PAIR = np.dtype([("bucket", "<u2"), ("count", "<u4")])
# A bin of run times is a factor of 2 ** (1 / 4) wide: a budget is exact to a fifth. From a microsecond to over an hour.
_BINS_AN_OCTAVE = 4
_SHORTEST_S = 1e-6
_TIME_BINS = 128
_MAX_ROWS_BIN = 48
# The most labels or bins, and tallies, of a slot: a writer to the outcome topic could invent any number.
_MAX_NAMES = 1_000
MAX_TALLIES = 16
# Answers with keys have fewer clusters than requests have buckets: each class has a row of clusters.
ANSWER_CLUSTERS = 64
_ABOUT = "\u2248"
# Steps of a mantissa from 0.5 to 1: a value is known to within 1.6 to 3.1 %. A smaller shift stops no rollout.
_VALUE_BINS = 64
_LARGEST_VALUE, _SMALLEST_VALUE = 1e15, 1e-12
_Key = TypeVar("_Key", int, str)
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
_Label = Annotated[str, msgspec.Meta(max_length=200)]


def key_bucket(routing_key: str) -> int:
    """Return the bucket of a routing key, 0 to 1023. A sticky user's requests are one draw: they share a bucket.

    It does not depend on the version that the key is routed to.
    """
    digest = blake2b(routing_key.encode(), digest_size=8, person=b"key-bucket").digest()
    return int.from_bytes(digest, "big") % BUCKETS


def run_bin(rows: int, inference_s: float) -> int:
    """Return the bin of a run: its rows by powers of two, and its time a row by quarters of an octave.

    Runs are compared with runs of as many rows: a canary has few requests, so small batches, which cost more a row.
    """
    rows_bin = max(0, rows.bit_length() - 1)
    octaves = np.log2(max(inference_s / max(rows, 1), _SHORTEST_S) / _SHORTEST_S)
    return rows_bin * _TIME_BINS + min(int(octaves * _BINS_AN_OCTAVE), _TIME_BINS - 1)


def rows_of_bin(run: int) -> int:
    """Return the smallest number of rows that the runs of a bin have."""
    return int(2 ** (run // _TIME_BINS))


def row_time_s(run: int) -> float:
    """Return the time a row, in seconds, at which a bin of run times begins."""
    return float(_SHORTEST_S * 2 ** ((run % _TIME_BINS) / _BINS_AN_OCTAVE))


def answer_cluster(bucket: int) -> int:
    """Return the cluster of a key bucket; answers with keys are compared by cluster."""
    return bucket % ANSWER_CLUSTERS


def value_labels(values: np.ndarray) -> list[str]:
    """The labels of values of a regression, floats `(n,)`: values within about 3 % of each other may share one."""
    mantissa, exponent = np.frexp(np.clip(np.nan_to_num(values), -_LARGEST_VALUE, _LARGEST_VALUE))
    # Rounds towards zero, so positive and negative values have bins of the same width.
    binned = np.ldexp(np.trunc(mantissa * _VALUE_BINS) / _VALUE_BINS, exponent)
    return [f"{_ABOUT}{value:.4g}" for value in np.where(np.abs(binned) < _SMALLEST_VALUE, 0.0, binned)]


def value_of(label: str) -> float | None:
    """Return the value that a label of `value_labels` stands for; None for the label of a class."""
    try:
        return float(label[1:]) if label.startswith(_ABOUT) else None
    except ValueError:
        return None


class BucketCounts(msgspec.Struct, frozen=True, eq=False):
    """Requests with a routing key by their bucket: three arrays of `(1024,) int64`."""

    requests: np.ndarray
    failed: np.ndarray
    expired: np.ndarray


def _no_counts() -> BucketCounts:
    column = np.zeros(BUCKETS, np.int64)
    column.flags.writeable = False
    return BucketCounts(column, column, column)


_NO_COUNTS = _no_counts()


def encode_buckets(counts: BucketCounts) -> bytes:
    """Bucket counts in a compact form: of each array the number of entries that are not 0, then bucket and count."""
    parts = []
    for column in (counts.requests, counts.failed, counts.expired):
        held = np.flatnonzero(column)
        pairs = np.empty(len(held), _PAIR)
        pairs["bucket"], pairs["count"] = held, np.minimum(column[held], 2**32 - 1)
        parts.append(len(held).to_bytes(2, "little") + pairs.tobytes())
    return b"".join(parts) if counts.requests.any() else b""


def decode_buckets(raw: bytes) -> BucketCounts:
    """Read bucket counts; no bytes are no counts.

    Raises:
        DecodeError: the bytes hold something else.
    """
    if not raw:
        return _NO_COUNTS
    columns = np.zeros((_COLUMNS, BUCKETS), np.int64)
    at = 0
    for column in columns:
        held = int.from_bytes(raw[at : at + 2], "little")
        end = at + 2 + held * _PAIR.itemsize
        if end > len(raw) or held > BUCKETS:
            raise DecodeError(f"{len(raw)} bytes hold no counts by key bucket: they end too early")
        pairs = np.frombuffer(raw[at + 2 : end], _PAIR)
        if held and int(pairs["bucket"].max()) >= BUCKETS:
            raise DecodeError(f"a key bucket is {pairs['bucket'].max()}; they go from 0 to {BUCKETS - 1}")
        column[pairs["bucket"]] = pairs["count"]
        at = end
    if at != len(raw):
        raise DecodeError(f"{len(raw)} bytes hold more than counts by key bucket")
    if (columns[1:] > columns[0]).any():
        raise DecodeError("a key bucket has more failed or expired requests than requests")
    return BucketCounts(*columns)


class LaneTally(msgspec.Struct, frozen=True, kw_only=True):
    """The marked requests of one lane, or the marked shadow copies of one lane.

    `failed` are faults of the version (model errors, outputs that cannot be encoded, its own crashes), not of the
    sender; `rerouted` are those failed or expired ones that the fallback version answered instead. `runs` are runs by
    `run_bin`, `buckets` the requests with a routing key (`encode_buckets`). `answers` are the first rows of answered
    requests without a key, by class or `value_labels`; `keyed_answers` those with one, by label and `answer_cluster`.
    """

    rollout: _Label
    lane: Lane
    is_shadow: bool = False
    requests: _Count = 0
    failed: _Count = 0
    expired: _Count = 0
    rerouted: _Count = 0
    rows: _Count = 0
    runs: dict[int, _Count] = {}
    answers: dict[_Label, _Count] = {}
    keyed_answers: Annotated[
        dict[_Label, dict[Annotated[int, msgspec.Meta(ge=0, lt=ANSWER_CLUSTERS)], _Count]],
        msgspec.Meta(max_length=_MAX_NAMES),
    ] = {}
    buckets: bytes = b""
    # Of shadow copies: rows that were compared with the answer to their original, and how many of those agreed.
    compared: _Count = 0
    agreed: _Count = 0

    def __post_init__(self) -> None:
        decode_buckets(self.buckets)
        if not all(0 <= run < _MAX_ROWS_BIN * _TIME_BINS for run in self.runs):
            raise DecodeError(f"a bin of run times is not from 0 to {_MAX_ROWS_BIN * _TIME_BINS - 1}")

    @property
    def identity(self) -> tuple[str, Lane, bool]:
        """What tallies must share to be added up."""
        return self.rollout, self.lane, self.is_shadow


def merge_tallies(tallies: Iterable[LaneTally]) -> tuple[LaneTally, ...]:
    """One tally for each rollout and lane, shadow copies apart; in a fixed order. More than a limit are left out."""
    groups: dict[tuple[str, Lane, bool], list[LaneTally]] = {}
    for tally in tallies:
        groups.setdefault(tally.identity, []).append(tally)
    return tuple(_merge(groups[identity]) for identity in sorted(groups)[:MAX_TALLIES])


def _merge(parts: list[LaneTally]) -> LaneTally:
    first, *others = parts
    if not others:
        return first
    counts = [decode_buckets(part.buckets) for part in parts if part.buckets]
    return LaneTally(
        rollout=first.rollout,
        lane=first.lane,
        is_shadow=first.is_shadow,
        requests=sum(part.requests for part in parts),
        failed=sum(part.failed for part in parts),
        expired=sum(part.expired for part in parts),
        rerouted=sum(part.rerouted for part in parts),
        rows=sum(part.rows for part in parts),
        runs=_sum(part.runs for part in parts),
        answers=_sum(part.answers for part in parts),
        keyed_answers=_merge_keyed(part.keyed_answers for part in parts),
        buckets=_merge_buckets(counts),
        compared=sum(part.compared for part in parts),
        agreed=sum(part.agreed for part in parts),
    )


def _merge_buckets(counts: list[BucketCounts]) -> bytes:
    if not counts:
        return b""
    return encode_buckets(
        BucketCounts(
            np.sum([count.requests for count in counts], axis=0),
            np.sum([count.failed for count in counts], axis=0),
            np.sum([count.expired for count in counts], axis=0),
        )
    )


def _merge_keyed(parts: Iterable[Mapping[str, Mapping[int, int]]]) -> dict[str, dict[int, int]]:
    total: dict[str, Counter[int]] = {}
    for part in parts:
        for label, counts in part.items():
            if label in total or len(total) < _MAX_NAMES:
                total.setdefault(label, Counter()).update(counts)
    return {label: dict(counts) for label, counts in total.items()}


def _sum(parts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    total: Counter[_Key] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common(_MAX_NAMES))
