"""Mergeable quantile sketches: t-digests, as bytes wherever they are kept or sent.

Percentiles of several workers cannot be averaged; their sketches can be merged, and the percentile read off the merged
one. Source: Dunning and Ertl, "Computing Extremely Accurate Quantiles Using t-Digests", 2019; the bytes are Apache
DataSketches' `tdigest_double`, format 1. Empty bytes are the sketch of no value.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from datasketches import tdigest_double

from inferlane.errors import DecodeError

# Larger costs bytes, smaller errs more. Measured on 100,000 lognormal values in 60 merges: 200 errs by 0.2 % of the
# ranks at the p95 and 0.02 % at the p99 and takes up to 4.3 KB; 100 errs by 0.6 % and 0.1 % in 2.3 KB.
_COMPRESSION = 200


class Sketch:
    """A sketch that values are added to. One thread at a time."""

    def __init__(self) -> None:
        self._digest = tdigest_double(_COMPRESSION)

    def update(self, values: np.ndarray) -> None:
        """Add finite values of any numeric dtype, shape `(n,)`."""
        self._digest.update(values)

    def to_bytes(self) -> bytes:
        """The sketch as it is sent."""
        return b"" if self._digest.is_empty() else bytes(self._digest.serialize())


def check_sketch(raw: bytes) -> None:
    """Read a sketch that somebody else wrote.

    Raises:
        DecodeError: the bytes are none, or hold values that are not finite.
    """
    _read(raw)


def merge_sketches(parts: Iterable[bytes]) -> bytes:
    """The sketch of all values of all parts.

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
    """The values at these ranks of [0, 1], or None of a sketch of no value.

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
