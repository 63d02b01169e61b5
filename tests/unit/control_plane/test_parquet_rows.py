"""Parquet files: each row becomes the row that the model takes, or a fault with its reason."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from control_plane.bulk.formats import ReadOptions
from control_plane.bulk.rows import Chunk, RowFile, count_rows
from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec
from inferlane.errors import ConfigurationError

OUTPUTS = (TensorSpec(name="label", datatype="INT64", shape=(-1,)),)


def signature(*inputs: TensorSpec) -> Signature:
    return Signature.of_graph(inputs=inputs, outputs=OUTPUTS)


MIXED = signature(
    TensorSpec(name="country", datatype="BYTES", shape=(-1, 1)),
    TensorSpec(name="amount", datatype="FP32", shape=(-1, 1), allow_nan=True),
)
PAIRS = signature(TensorSpec(name="input", datatype="FP32", shape=(-1, 2)))
NAMED = signature(
    TensorSpec(
        name="input",
        datatype="FP32",
        shape=(-1, 2),
        columns=(Column(name="country", default="FR", categories=("DE", "FR")), Column(name="amount")),
    )
)
TOKENS = signature(
    TensorSpec(name="input_ids", datatype="INT64", shape=(-1, -1), pad=0),
    TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, -1), pad=0, mask_of="input_ids"),
)


def written(folder: Path, columns: Any) -> Path:
    path = folder / "rows.parquet"
    parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return path


def read(folder: Path, columns: Any, model: Signature, **options: Any) -> Chunk:
    path = written(folder, columns)
    (chunk,) = RowFile(path, model, ReadOptions(**options)).chunks(rows_per_chunk=100)
    assert chunk.row_count == count_rows(path)
    return chunk


def test_columns_are_found_by_their_names_and_missing_values_reach_who_takes_them(tmp_path: Path) -> None:
    chunk = read(tmp_path, {"amount": [1.5, None, float("nan")], "country": ["DE", "a\nb", "日本"]}, MIXED)

    assert chunk.faults == {}
    assert chunk.tensors["country"].ravel().tolist() == ["DE", "a\nb", "日本"]
    np.testing.assert_array_equal(chunk.tensors["amount"].ravel(), np.array([1.5, np.nan, np.nan], np.float32))


def test_named_columns_take_their_defaults(tmp_path: Path) -> None:
    chunk = read(tmp_path, {"country": ["DE", None, "XX"], "amount": [1, 2, 3]}, NAMED)

    assert chunk.tensors["input"].tolist() == [[0.0, 1.0], [1.0, 2.0]]
    assert chunk.positions == (0, 1)
    assert chunk.faults[2].startswith("row 3: ")


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1, 3], "b": [2.0, 4.0]},
        {"a": pa.array([Decimal("1.0"), Decimal("3.0")]), "b": pa.array([2, 4], pa.int8())},
        {"anything": [[1.0, 2.0], [3.0, 4.0]]},
        {"anything": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)},
    ],
)
def test_a_row_of_numbers_is_its_columns_in_order_or_the_list_in_the_only_one(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    chunk = read(tmp_path, columns, PAIRS)

    assert chunk.tensors["input"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_missing_value_is_a_fault_of_its_row_unless_a_number_stands_for_it(tmp_path: Path) -> None:
    columns = {"a": [1.0, None], "b": [2.0, 3.0]}

    chunk = read(tmp_path, columns, PAIRS)
    assert chunk.positions == (0,)
    assert "row 2: column 'a': the value is missing" in chunk.faults[1]
    assert read(tmp_path, columns, PAIRS, missing=-1.0).tensors["input"].tolist() == [[1.0, 2.0], [-1.0, 3.0]]


def test_lists_of_several_inputs_are_found_by_name(tmp_path: Path) -> None:
    chunk = read(tmp_path, {"input_ids": [[5, 6, 7], [8]]}, TOKENS)

    assert chunk.faults == {}
    assert chunk.tensors["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_what_is_neither_number_nor_text_is_a_fault(tmp_path: Path) -> None:
    chunk = read(tmp_path, {"a": [1.0], "b": [{"x": 1}]}, PAIRS)

    assert chunk.positions == ()
    assert chunk.faults[0].startswith("row 1: ")


@pytest.mark.parametrize(
    ("columns", "model", "reason"),
    [
        ({"a": [1.0]}, PAIRS, "has 1 columns"),
        ({"country": ["DE"], "price": [1.0]}, MIXED, "'price'"),
        ({"country": ["DE"]}, MIXED, "lacks 'amount'"),
        ({"ids": [[1]], "mask": [[1]]}, TOKENS, "has the column 'ids'"),
        (pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"]), PAIRS, "names a column twice"),
    ],
)
def test_columns_that_are_not_those_of_the_model_are_refused(
    tmp_path: Path, columns: Any, model: Signature, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        RowFile(written(tmp_path, columns), model)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(ConfigurationError, match=r"cannot read .* as Parquet"):
        RowFile(tmp_path / "rows.parquet", PAIRS)
