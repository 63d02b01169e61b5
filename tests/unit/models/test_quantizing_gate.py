"""The gate of `inferlane models quantize`: what passes, what does not, and which of several is chosen."""

from collections.abc import Mapping

import numpy as np
import pytest

from inferlane.contracts.wire.tensors import TensorSpec
from models.quantizing.gate import Limits, MeasuredForm, best, judge
from models.quantizing.held_out import agreement

LIMITS = Limits(min_speedup=1.5, max_accuracy_drop=0.01)
FLOAT32 = MeasuredForm(method="float32", size_bytes=400, latency_us={"1": 100.0, "64": 1000.0}, accuracy=0.95)


def form(latency_us: Mapping[str, float], **about: object) -> MeasuredForm:
    return MeasuredForm(**({"method": "int8", "size_bytes": 100, "latency_us": latency_us, "accuracy": 0.95} | about))


@pytest.mark.parametrize(
    ("measured", "reasons"),
    [
        (form({"1": 50.0, "64": 500.0}), []),
        (form({"1": 100.0, "64": 800.0}), ["1.12x as fast in the mean, and --min-speedup is 1.5"]),
        # Four times as fast here does not make up for twice as slow there.
        (form({"1": 200.0, "64": 100.0}), ["slower than float32 in runs of 1 (0.50x) rows"]),
        (
            form({"1": 50.0, "64": 500.0}, accuracy=0.9),
            ["loses 5.00% of accuracy, and --max-accuracy-drop is 1.00%"],
        ),
        # With labels it is the accuracy that counts: an int8 form may be right where float32 was wrong.
        (form({"1": 50.0, "64": 500.0}, accuracy=0.96, agreement=0.9), []),
        (
            form({"1": 50.0, "64": 500.0}, accuracy=None, agreement=0.9),
            ["disagrees with float32 by 10.00%, and --max-accuracy-drop is 1.00%"],
        ),
        (form({}, fault="it cannot be loaded"), ["it cannot be loaded"]),
    ],
)
def test_a_form_passes_if_it_is_faster_everywhere_and_as_good(measured: MeasuredForm, reasons: list[str]) -> None:
    (judged,) = judge(FLOAT32, [measured], LIMITS)

    assert list(judged.reasons) == reasons


def test_the_fastest_form_that_passes_is_chosen() -> None:
    forms = [
        form({"1": 50.0, "64": 500.0}, method="good"),
        form({"1": 25.0, "64": 250.0}, method="wrong", accuracy=0.5),
        form({"1": 40.0, "64": 400.0}, method="better"),
    ]

    chosen = best(judge(FLOAT32, forms, LIMITS))

    assert chosen is not None
    assert chosen.measured.method == "better"
    assert best(judge(FLOAT32, forms[1:2], LIMITS)) is None


@pytest.mark.parametrize(
    ("spec", "answers", "wanted", "expected"),
    [
        (("INT64", (-1,)), [0, 1, 2, 2], [0, 1, 2, 1], 0.75),
        (("FP32", (-1, 2)), [[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.9, 0.1]], 0.5),
        # Classes that somebody knows, against scores.
        (("FP32", (-1, 2)), [[0.9, 0.1], [0.4, 0.6]], [0, 1], 1.0),
        # R²: the mean alone explains nothing.
        (("FP32", (-1, 1)), [[2.0], [2.0], [2.0]], [1.0, 2.0, 3.0], 0.0),
        (("FP32", (-1, 1)), [[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0], 1.0),
    ],
)
def test_answers_agree_by_class_or_as_numbers(
    spec: tuple[str, tuple[int, ...]], answers: list, wanted: list, expected: float
) -> None:
    about = TensorSpec(name="out", datatype=spec[0], shape=spec[1])

    assert agreement(np.array(answers), np.array(wanted), about) == pytest.approx(expected)
