"""Rows to quantize with: some to calibrate on, others to judge the answers by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inferlane.contracts.wire.tensors import NO_ROW_AXIS, Signature, TensorSpec
from inferlane.errors import ConfigurationError, quoted
from models.adding.check_rows import read_check_rows

# Fewer tell nothing of an accuracy, and clip activations that they did not reach.
_FEWEST_ROWS = 40
_MOST_CALIBRATION_ROWS = 512
_CALIBRATION_BATCH_ROWS = 64
_SEED = 20_261
_SHOWN_VALUES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSplit:
    """Arrays `(rows, …)` by input, to calibrate on and held out; `labels` of the held-out rows if they are known."""

    calibration: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    labels: np.ndarray | None


def read_split(
    path: Path, signature: Signature, classes: Mapping[str, tuple[str, ...]], *, labels: str | None
) -> CalibrationSplit:
    """Read a file of rows, and split it in halves: drawn with a fixed seed, for files are often sorted by class.

    Raises:
        ConfigurationError: it cannot be read, does not fit the model, has too few rows, or holds a value or a label
            that the model cannot have.
    """
    rows = read_check_rows(path, signature, classes, labels=labels, option="--data")
    deciding = deciding_output(signature)
    known = rows.labels if rows.labels is not None else rows.expected.get(deciding.name)
    count = len(next(iter(rows.inputs.values())))
    if count < _FEWEST_ROWS:
        raise ConfigurationError(
            f"--data {str(path)!r} has {count} rows; half of them calibrate and half of them judge, so give at least "
            f"{_FEWEST_ROWS}, and better some hundreds"
        )
    for spec in signature.inputs:
        _check_values(path, rows.inputs[spec.name], spec)
    if known is not None:
        _check_labels(path, known, deciding, classes.get(deciding.name, ()))
    order = np.random.default_rng(_SEED).permutation(count)
    calibration, held_out = np.split(order, [min(count // 2, _MOST_CALIBRATION_ROWS)])
    return CalibrationSplit(
        calibration={name: array[calibration] for name, array in rows.inputs.items()},
        held_out={name: array[held_out] for name, array in rows.inputs.items()},
        labels=None if known is None else known[held_out],
    )


def check_answered(path: Path, labels: np.ndarray, answers: np.ndarray, spec: TensorSpec) -> None:
    """Return if one of the labels is an answer of the model, where nothing else tells which classes it has.

    Raises:
        ConfigurationError: none is, so that every form would have the same accuracy, 0.
    """
    if not spec.datatype.startswith("FP") and not np.isin(labels, answers).any():
        raise ConfigurationError(
            f"--data {str(path)!r}: no label is an answer of the model by {spec.name!r}: the labels are "
            f"{_some(labels)}, and its answers {_some(answers)}. Give the labels as the model does"
        )


def _check_values(path: Path, array: np.ndarray, spec: TensorSpec) -> None:
    if spec.allow_nan or array.dtype.kind != "f":
        return
    flat = array.reshape(len(array), -1)
    if len(odd := np.argwhere(~np.isfinite(flat))):
        row, place = odd[0]
        raise ConfigurationError(
            f"--data {str(path)!r}: value {place + 1} of row {row + 1} of the input {spec.name!r} is "
            f"{flat[row, place]}, and the model takes no missing or infinite values (allow_nan in version.toml). "
            "Fill it in, or leave the row out"
        )


def _check_labels(path: Path, labels: np.ndarray, spec: TensorSpec, classes: Sequence[str]) -> None:
    if labels.dtype.kind not in "fiu":
        return
    flat = labels.reshape(len(labels), -1)
    is_class = _is_scores(spec) or not spec.datatype.startswith("FP")
    # Scores that are wanted instead of classes have as many columns.
    count = (spec.row_shape[0] if _is_scores(spec) else len(classes)) if is_class and flat.shape[1] == 1 else 0
    fits = np.isfinite(flat)
    if is_class and flat.shape[1] == 1:
        fits &= np.trunc(flat) == flat
    if count:
        fits &= (flat >= 0) & (flat < count)
    if not fits.all():
        row, place = np.argwhere(~fits)[0]
        limit = (
            f"the index of a class, from 0 to {count - 1}" if count else "a class" if is_class else "a finite number"
        )
        raise ConfigurationError(
            f"--data {str(path)!r}: the label of row {row + 1} is {flat[row, place]}; give {limit}, or leave "
            "the row out"
        )


def _some(values: np.ndarray) -> str:
    found = [str(value) for value in np.unique(values)]
    return quoted(", ".join(found[:_SHOWN_VALUES]) + (", …" if len(found) > _SHOWN_VALUES else ""), limit_chars=100)


def calibration_runs(split: CalibrationSplit, signature: Signature) -> list[dict[str, np.ndarray]]:
    """The calibration rows as runs of the graph take them; rows that do not fill a run of fixed size are left out."""
    rows = split.calibration
    count = len(next(iter(rows.values())))
    # onnxruntime takes strings as Python's objects alone.
    fed = {name: array.astype(object) if array.dtype.kind == "T" else array for name, array in rows.items()}
    if signature.batch == NO_ROW_AXIS:
        return [{name: array[row] for name, array in fed.items()} for row in range(count)]
    size = signature.batch if signature.batch > 0 else _CALIBRATION_BATCH_ROWS
    starts = range(0, count, size) if signature.batch < 0 else range(0, count - size + 1, size)
    return [{name: array[start : start + size] for name, array in fed.items()} for start in starts]


def deciding_output(signature: Signature) -> TensorSpec:
    """The output that an accuracy is about: a label, else scores by class, else the first."""
    labels = (spec for spec in signature.outputs if not spec.datatype.startswith("FP") and spec.row_shape in {(), (1,)})
    scores = (spec for spec in signature.outputs if _is_scores(spec))
    return next(labels, next(scores, signature.outputs[0]))


def agreement(answers: np.ndarray, wanted: np.ndarray, spec: TensorSpec) -> float:
    """How far answers are the wanted ones: the share of rows with the same class, or for other numbers R².

    Scores decide by their largest. `wanted` may be the classes themselves, `(rows,)`.
    """
    if _is_scores(spec):
        answers = answers.argmax(axis=1)
        wanted = wanted.argmax(axis=1) if wanted.ndim > 1 and wanted.shape[1] > 1 else wanted
    rows = len(answers)
    if not spec.datatype.startswith("FP") or _is_scores(spec):
        return float(np.mean(np.reshape(answers, rows) == np.reshape(wanted, rows)))
    found, known = (np.reshape(array, (rows, -1)).astype(np.float64) for array in (answers, wanted))
    spread = float(np.square(known - known.mean(axis=0)).sum())
    missed = float(np.square(found - known).sum())
    return 1.0 - missed / spread if spread else float(missed == 0)


def _is_scores(spec: TensorSpec) -> bool:
    return spec.datatype.startswith("FP") and len(spec.row_shape) == 1 and spec.row_shape[0] > 1
