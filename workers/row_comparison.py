"""Compare the outputs of two versions for the same rows: same label, and how far apart the scores are. Pure."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferlane.contracts.shadow import Answer, classes_digest

# Numbers this close, relative to their size, count as the same answer of a model without classes. Smaller reports the
# rounding of a quantised model, larger hides a shift.
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RowComparison:
    """For each row: whether both answered alike `(rows,) bool`, and a distance of 0 to 1 `(rows,) float64`."""

    agrees: np.ndarray
    distance: np.ndarray
    # Both answers as text, for people.
    original: Sequence[str]
    shadow: Sequence[str]


def is_finite(outputs: Mapping[str, Any]) -> bool:
    """Return whether every number of the outputs is one: neither NaN nor infinite."""
    # An output that is not an array is reported by the encoder.
    floats = (array for array in outputs.values() if isinstance(array, np.ndarray) and array.dtype.kind == "f")
    return all(bool(np.isfinite(array).all()) for array in floats)


def compare_rows(
    answer: Answer, outputs: Mapping[str, np.ndarray], *, label_output: str | None, classes: Sequence[str]
) -> RowComparison | None:
    """Compare an answer with the outputs of another version; None if they share no output, or have not as many rows.

    Versions with classes agree where they name the same class, and their distance is the total variation distance of
    the class scores, or 1 where the class differs and the scores cannot be compared. Other versions agree where no
    common output differs by more than 5 % of its size (mean absolute difference over mean size); strings where they
    are equal.
    """
    common = [name for name in outputs if name in answer.outputs]
    if not common or len({len(found[name]) for found in (answer.outputs, outputs) for name in common}) != 1:
        return None
    if label_output is not None and answer.labels is not None:
        return _classes_compared(answer, outputs, label_output, classes)
    distance = np.max([_distance(answer.outputs[name], outputs[name]) for name in common], axis=0)
    rows = range(len(distance))
    return RowComparison(
        agrees=distance <= _TOLERANCE,
        distance=distance,
        original=[_shown(answer.outputs[common[0]], row) for row in rows],
        shadow=[_shown(outputs[common[0]], row) for row in rows],
    )


def compare_all(
    pairs: Sequence[tuple[Answer, Mapping[str, np.ndarray]]], *, label_output: str | None, classes: Sequence[str]
) -> Sequence[RowComparison | None]:
    """Compare each pair as `compare_rows` does; pairs whose outputs have the same shapes a row in one computation."""
    groups: dict[Hashable, list[int]] = {}
    for number, (answer, outputs) in enumerate(pairs):
        rows = {len(array) for array in (*answer.outputs.values(), *outputs.values())}
        # A pair of which the rows cannot be told apart in a group is compared alone.
        is_alone = len(rows) != 1 or (answer.labels is not None and len(answer.labels) not in rows)
        kind = (answer.labels is None, answer.classes_digest, _kind_of(answer.outputs), _kind_of(outputs))
        groups.setdefault(number if is_alone else kind, []).append(number)
    found: list[RowComparison | None] = [None] * len(pairs)
    for numbers in groups.values():
        answers, others = [pairs[number][0] for number in numbers], [pairs[number][1] for number in numbers]
        whole = compare_rows(_joined(answers), _stacked(others), label_output=label_output, classes=classes)
        if whole is None:
            continue
        start = 0
        for number, outputs in zip(numbers, others, strict=True):
            part = slice(start, start := start + len(next(iter(outputs.values()))))
            found[number] = RowComparison(
                agrees=whole.agrees[part],
                distance=whole.distance[part],
                original=whole.original[part],
                shadow=whole.shadow[part],
            )
    return found


def _kind_of(outputs: Mapping[str, np.ndarray]) -> Hashable:
    return tuple([(name, array.dtype.char, array.shape[1:]) for name, array in outputs.items()])


def _stacked(outputs: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def _joined(answers: Sequence[Answer]) -> Answer:
    if len(answers) == 1:
        return answers[0]
    labels = None if answers[0].labels is None else tuple(label for one in answers for label in one.labels or ())
    return Answer(
        outputs=dict(_stacked([one.outputs for one in answers])),
        row_time_s=answers[0].row_time_s,
        labels=labels,
        classes_digest=answers[0].classes_digest,
    )


def labels_of(
    outputs: Mapping[str, np.ndarray], label_output: str | None, classes: Sequence[str]
) -> Sequence[str] | None:
    """Return the class that each row was given, by name; None for a version without classes."""
    if label_output is None:
        return None
    return [_class_name(label, classes) for label in outputs[label_output].ravel().tolist()]


def _classes_compared(
    answer: Answer, outputs: Mapping[str, np.ndarray], label_output: str, classes: Sequence[str]
) -> RowComparison | None:
    said, now = answer.labels or (), labels_of(outputs, label_output, classes) or ()
    if len(said) != len(now):
        return None
    agrees = np.array([one == other for one, other in zip(said, now, strict=True)])
    distance = np.where(agrees, 0.0, 1.0)
    if answer.classes_digest == classes_digest(classes):
        for name, scores in outputs.items():
            others = answer.outputs.get(name)
            if others is not None and others.shape == scores.shape == (len(said), len(classes)):
                gap = np.abs(scores.astype(np.float64) - others.astype(np.float64)).sum(axis=1) / 2
                distance = np.where(np.isfinite(gap), np.clip(gap, 0.0, 1.0), 1.0)
                break
    return RowComparison(agrees=agrees, distance=distance, original=said, shadow=now)


def _class_name(label: int | str, classes: Sequence[str]) -> str:
    return classes[label] if isinstance(label, int) and 0 <= label < len(classes) else str(label)


def _distance(original: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Return how far apart the rows of one output are: 0 for the same, at most 1."""
    rows = len(shadow)
    if original.shape != shadow.shape:
        return np.ones(rows)
    one, other = (array.reshape(rows, math.prod(array.shape[1:])) for array in (original, shadow))
    if one.dtype.kind not in "fiub" or other.dtype.kind not in "fiub":
        return np.where((one == other).all(axis=1), 0.0, 1.0)
    one, other = one.astype(np.float64), other.astype(np.float64)
    is_same = ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(one - other).mean(axis=1) / (np.abs(one) + np.abs(other)).mean(axis=1) * 2
    return np.where(is_same, 0.0, np.where(np.isfinite(gap), np.clip(gap, 0.0, 1.0), 1.0))


def _shown(output: np.ndarray, row: int) -> str:
    values = output[row : row + 1].ravel()
    return f"{values[0]}" if len(values) == 1 else f"{values[:4].tolist()}"
