"""The answers of a model beside those that are expected."""

from collections.abc import Mapping

import msgspec
import numpy as np

from inferlane.errors import ConfigurationError, clipped


class ReferenceComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to the rows of a file beside those that are expected; `largest_difference` is relative above 1."""

    rows: int
    outputs: tuple[str, ...]
    largest_difference: float
    labels_differing: int
    tolerance: float


def compare(
    outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float, *, expected_of: str
) -> ReferenceComparison:
    """Compare answers with those that are expected.

    Raises:
        ConfigurationError: they differ by more than the tolerance; the message names the first row.
    """
    largest, differing = 0.0, 0
    rows = len(next(iter(outputs.values())))
    for name, given in expected.items():
        found = outputs[name]
        if found.size != given.size:
            raise ConfigurationError(
                f"{name} has the shape {list(found.shape)}, and {expected_of} has {list(given.shape)}"
            )
        wanted = given.reshape(found.shape)
        if found.dtype.kind == "f":
            gaps = _differences(found, wanted.astype(np.float64))
            largest = max(largest, float(gaps.max(initial=0)))
            off = (gaps > tolerance).reshape(rows, -1).any(axis=1)
            allowed = 0.0
        else:
            # At a tie of two scores, either label is right.
            off = (found != wanted).reshape(rows, -1).any(axis=1) & ~_tied(expected, rows, tolerance)
            differing += int(off.sum())
            # A row on the edge between two classes may fall on the other side in float32.
            allowed = tolerance * rows
        if off.sum() > allowed:
            at = int(np.argmax(off))
            raise ConfigurationError(
                f"{name} differs from {expected_of} in {int(off.sum())} of {rows} rows; row {at}: "
                f"{_head(found[at])} instead of {_head(wanted[at])}. The largest difference is {largest:.3g}, "
                f"and the tolerance {tolerance:g} (--tolerance)"
            )
    return ReferenceComparison(
        rows=rows,
        outputs=tuple(expected),
        largest_difference=largest,
        labels_differing=differing,
        tolerance=tolerance,
    )


def _tied(expected: Mapping[str, np.ndarray], rows: int, tolerance: float) -> np.ndarray:
    """The rows whose two largest expected scores are equal but for the tolerance."""
    tied = np.zeros(rows, bool)
    for values in expected.values():
        if values.dtype.kind == "f" and values.size > rows and values.size % rows == 0:
            best = np.sort(values.reshape(rows, -1), axis=1)[:, -2:]
            tied |= best[:, 1] - best[:, 0] <= tolerance * np.maximum(1.0, np.abs(best[:, 1]))
    return tied


def _differences(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    values = found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps: np.ndarray = np.abs(values - wanted) / np.maximum(1.0, np.abs(wanted))
    same = (values == wanted) | (np.isnan(values) & np.isnan(wanted))
    return np.where(same, 0.0, np.nan_to_num(gaps, nan=np.inf))


def _head(value: np.ndarray) -> str:
    return clipped(", ".join(f"{number:.6g}" for number in np.ravel(value)[:6]), limit_chars=100)
