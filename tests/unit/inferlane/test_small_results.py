"""Small results read without arrays are the same predictions, and what is not small is left to the arrays."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inferlane.contracts.wire.class_names import ClassNames
from inferlane.contracts.wire.small_results import row_predictions
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES, ALL_AS_JSON

CLASSES = {"label": ("setosa", "versicolor", "virginica"), "size": ("small", "big")}
NUMBERS = ("<i8", "<i4", "<i2", "<i1", "<u8", "<u4", "<u2", "<u1", "<f8", "<f4", "<f2", "?")
TWO = {"label": np.array([2], "<i8"), "probabilities": np.array([[0.1, 0.2, 0.7]], "<f4")}


def stored(outputs: dict[str, np.ndarray]) -> tuple[bytes, int | None]:
    return encode_response(outputs, model="iris", version="v1", form=ALL_AS_BYTES)


def by_arrays(content: bytes, json_length: int | None, classes: ClassNames) -> list[Any]:
    return encode_predictions(decode_response(content, json_length), classes)


def output() -> st.SearchStrategy[np.ndarray]:
    shapes = st.sampled_from([(1,), (1, 1), (1, 3), (1, 0)])
    return st.sampled_from(NUMBERS).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shapes))


@given(
    outputs=st.dictionaries(
        st.sampled_from([*CLASSES, "items"]) | st.text(min_size=1, max_size=5), output(), min_size=1, max_size=3
    ),
    classes=st.sampled_from([{}, CLASSES]),
)
def test_predictions_are_those_of_the_arrays(outputs: dict[str, np.ndarray], classes: ClassNames) -> None:
    content, json_length = stored(outputs)
    found = row_predictions(content, json_length, classes)
    is_finite = all(np.isfinite(array).all() for array in outputs.values())
    if not is_finite:
        assert found is None
        return
    wanted = by_arrays(content, json_length, classes)
    assert found == wanted
    assert repr(found) == repr(wanted)


@pytest.mark.parametrize("rows", [1, 2], ids=["small", "by-arrays"])
def test_class_names_are_those_of_their_output(rows: int) -> None:
    outputs = {
        "label": np.full(rows, 2, "<i8"),
        "size": np.full((rows, 2), 1, "<i8"),
        "items": np.full(rows, 1, "<i8"),
    }
    content, json_length = stored(outputs)
    small = row_predictions(content, json_length, CLASSES)

    assert (small is None) == (rows > 1)
    found = by_arrays(content, json_length, CLASSES) if small is None else small
    assert found == [{"label": "virginica", "size": ["big", "big"], "items": 1}] * rows


@pytest.mark.parametrize(
    "outputs",
    [
        {"label": np.array([1, 2], "<i8")},
        {"text": np.array(["a"], np.dtypes.StringDType())},
        {"image": np.zeros((1, 2, 2), "<f4")},
        {"embedding": np.zeros((1, 65), "<f4")},
    ],
    ids=lambda outputs: next(iter(outputs)),
)
def test_what_is_not_a_row_of_a_few_numbers_is_left_to_the_arrays(outputs: dict[str, np.ndarray]) -> None:
    assert row_predictions(*stored(outputs), CLASSES) is None


def test_a_result_as_json_is_left_to_the_arrays() -> None:
    assert row_predictions(*encode_response(TWO, model="iris", version="v1", form=ALL_AS_JSON), CLASSES) is None


@pytest.mark.parametrize("change", [b"", b"\0"], ids=["short", "long"])
def test_a_damaged_result_is_left_to_the_arrays(change: bytes) -> None:
    content, json_length = stored(TWO)
    damaged = content + change if change else content[:-1]
    assert row_predictions(content, json_length, CLASSES) is not None
    assert row_predictions(damaged, json_length, CLASSES) is None
    assert row_predictions(b"{" + content[1:], -1, CLASSES) is None
    assert row_predictions(b"x" * len(content), json_length, CLASSES) is None


def test_a_result_whose_output_has_data_as_well_is_left_to_the_arrays() -> None:
    content, json_length = stored({"value": np.array([1.5], "<f4")})
    assert json_length is not None
    both = content[:json_length].replace(b'"datatype"', b'"data":[1.5],"datatype"')
    assert row_predictions(both + content[json_length:], len(both), {}) is None
