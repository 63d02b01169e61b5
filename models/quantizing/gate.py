"""The gate: whether an int8 form of a version is worth serving, decided by what was measured. Pure."""

import math
from collections.abc import Mapping, Sequence

import msgspec

# An int8 form that is slower than this with any number of rows takes from some traffic what it gives to other.
_SLOWEST = 0.9


class MeasuredForm(msgspec.Struct, frozen=True, kw_only=True):
    """What one form of a version showed: float32, or made by a method.

    `latency_us` is by rows of a run. `accuracy` is the share of right labels, or R² where the answer is a number; None
    if nothing is known to compare with. `agreement` is the same measure against the answers of float32. `fault` says
    why the method gave nothing that can be served.
    """

    method: str
    size_bytes: int = 0
    latency_us: Mapping[str, float] = {}
    accuracy: float | None = None
    agreement: float = 1.0
    rows_alone: bool = False
    fault: str | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an int8 form must reach: its mean speed-up, and how much of the accuracy, or agreement, it may lose."""

    min_speedup: float
    max_accuracy_drop: float


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A form and what the gate says of it: `reasons` against it, none if it passes."""

    measured: MeasuredForm
    reasons: tuple[str, ...]
    speedup: float = 0.0


def speedups(source: MeasuredForm, form: MeasuredForm) -> dict[str, float]:
    """How many times faster than float32 a form is, by rows of a run."""
    return {rows: source.latency_us[rows] / latency_us for rows, latency_us in form.latency_us.items()}


def accuracy_drop(source: MeasuredForm, form: MeasuredForm) -> float:
    """What a form loses of the accuracy, or where nothing is known to compare with, of the agreement with float32."""
    if source.accuracy is None or form.accuracy is None:
        return 1.0 - form.agreement
    return source.accuracy - form.accuracy


def judge(source: MeasuredForm, forms: Sequence[MeasuredForm], limits: Limits) -> tuple[Judged, ...]:
    """Judge each form against float32."""
    return tuple(_judge(source, form, limits) for form in forms)


def best(judged: Sequence[Judged]) -> Judged | None:
    """The fastest form that passes; None if none does."""
    return max((one for one in judged if not one.reasons), key=lambda one: one.speedup, default=None)


def _judge(source: MeasuredForm, form: MeasuredForm, limits: Limits) -> Judged:
    if form.fault is not None:
        return Judged(measured=form, reasons=(form.fault,))
    by_rows = speedups(source, form)
    # The geometric mean: twice as fast here and half as fast there is no gain.
    mean = math.prod(by_rows.values()) ** (1 / len(by_rows))
    reasons = []
    if mean < limits.min_speedup:
        reasons.append(f"{mean:.2f}x as fast in the mean, and --min-speedup is {limits.min_speedup:g}")
    slowest = min(_SLOWEST, limits.min_speedup)
    slower = [f"{rows} ({speedup:.2f}x)" for rows, speedup in by_rows.items() if speedup < slowest]
    if slower:
        reasons.append(f"slower than float32 in runs of {', '.join(slower)} rows")
    drop = accuracy_drop(source, form)
    if drop > limits.max_accuracy_drop:
        lost = f"disagrees with float32 by {drop:.2%}" if form.accuracy is None else f"loses {drop:.2%} of accuracy"
        reasons.append(f"{lost}, and --max-accuracy-drop is {limits.max_accuracy_drop:.2%}")
    return Judged(measured=form, reasons=tuple(reasons), speedup=mean)
