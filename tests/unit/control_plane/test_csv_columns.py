"""CSV for models of a table: text, missing values and columns by name become the rows that the model takes."""

import json
from pathlib import Path

import numpy as np
import pytest

from control_plane.bulk.formats import HeaderLine, ReadOptions
from control_plane.bulk.rows import Chunk, RowFile
from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec
from inferlane.errors import ConfigurationError

OUTPUTS = (TensorSpec(name="label", datatype="INT64", shape=(-1,)),)


def table(*inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs=OUTPUTS)


COUNTRY = TensorSpec(name="country", datatype="BYTES", shape=(-1, 1))
AMOUNT = TensorSpec(name="amount", datatype="FP32", shape=(-1, 1), allow_nan=True)
MIXED = table(COUNTRY, AMOUNT)
TREES = table(TensorSpec(name="input", datatype="FP32", shape=(-1, 3), allow_nan=True))
TEXT = table(TensorSpec(name="text", datatype="BYTES", shape=(-1, 1)))
NAMED = table(
    TensorSpec(
        name="input",
        datatype="FP32",
        shape=(-1, 3),
        columns=(
            Column(name="country", default="FR", categories=("DE", "FR")),
            Column(name="amount"),
            Column(name="age", default=30.0),
        ),
    )
)


def read(folder: Path, content: str, signature: Signature, **options: object) -> Chunk:
    path = folder / "rows.csv"
    path.write_text(content)
    (chunk,) = RowFile(path, signature, ReadOptions(**options)).chunks(rows_per_chunk=100)  # type: ignore[arg-type]  # as it is given
    return chunk


@pytest.mark.parametrize(
    "content",
    [
        "country,amount\nDE,1.5\n,NA\nIT,\n",
        # In the order of the file.
        "amount,country\n1.5,DE\nNA,\n,IT\n",
        # Without a header, in the order of the inputs: the first line is a row although it begins with a text.
        "DE,1.5\n,NA\nIT,\n",
    ],
)
def test_text_and_missing_values_reach_the_inputs_that_take_them(tmp_path: Path, content: str) -> None:
    chunk = read(tmp_path, content, MIXED)

    assert chunk.faults == {}
    assert chunk.tensors["country"].ravel().tolist() == ["DE", "", "IT"]
    np.testing.assert_array_equal(chunk.tensors["amount"].ravel(), np.array([1.5, np.nan, np.nan], np.float32))


def test_a_missing_value_is_nan_where_the_model_takes_it_unless_a_number_stands_for_it(tmp_path: Path) -> None:
    content = "a,b,c\n1,,3\nnan,2,null\n"

    assert np.isnan(read(tmp_path, content, TREES).tensors["input"]).sum() == 3
    assert read(tmp_path, content, TREES, missing=0.0).tensors["input"].tolist() == [[1, 0, 3], [0, 2, 0]]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\n"good, day"\nbad\n', ["good, day", "bad"]),
        ("good\nbad\n", ["good", "bad"]),
        ("12\nNA\n", ["12", "NA"]),
    ],
)
def test_a_model_of_text_takes_each_line(tmp_path: Path, content: str, texts: list[str]) -> None:
    assert read(tmp_path, content, TEXT, delimiter=",").tensors["text"].ravel().tolist() == texts


def test_named_columns_may_be_in_any_order_and_lack_what_has_a_default(tmp_path: Path) -> None:
    chunk = read(tmp_path, "amount,country\n2.5,DE\n3.5,\n4.5,XX\n,DE\n", NAMED)

    assert chunk.tensors["input"].tolist() == [[0.0, 2.5, 30.0], [1.0, 3.5, 30.0]]
    assert set(chunk.faults) == {2, 3}
    assert "'XX'; the column 'country' takes one of" in chunk.faults[2]
    assert "line 5, column 1 ('amount'): the value is missing" in chunk.faults[3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("country,price\nDE,1\n", "names 'price'; the model takes: country, amount, age"),
        ("country,age\nDE,1\n", "lacks 'amount'"),
        ("amount,country,amount\n1,DE,2\n", "names a column twice"),
    ],
)
def test_a_header_that_does_not_name_the_columns_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        read(tmp_path, content, NAMED, header=HeaderLine.YES)


def test_a_field_that_is_no_number_is_named_by_its_column(tmp_path: Path) -> None:
    chunk = read(tmp_path, "country,amount\nDE,much\n", MIXED)

    assert chunk.faults == {0: "line 2, column 2 ('amount'): 'much' is no number"}


def test_rows_that_are_no_rows_of_a_table_want_json(tmp_path: Path) -> None:
    image = table(TensorSpec(name="image", datatype="FP32", shape=(-1, 8, 8)))

    with pytest.raises(ConfigurationError, match=r"use \.jsonl for this model's inputs"):
        read(tmp_path, json.dumps([1]), image)
