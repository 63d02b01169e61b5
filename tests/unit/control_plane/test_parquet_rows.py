"""Parquet files: each row becomes the row that the model takes, or a fault with its reason."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from control_plane.bulk.chunks import Chunk
from control_plane.bulk.formats import ReadOptions
from control_plane.bulk.parquet_rows import ParquetRows
from control_plane.bulk.rows import RowFile, count_rows
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
MANY = signature(TensorSpec(name="input", datatype="FP32", shape=(-1, 2), allow_nan=True))
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


@pytest.mark.parametrize("number", [math.inf, -math.inf])
@pytest.mark.parametrize("model", [PAIRS, MANY], ids=["finite", "allow_nan"])
@pytest.mark.parametrize("are_lists", [False, True], ids=["columns", "lists"])
def test_an_infinite_number_is_a_fault_and_no_missing_value(
    tmp_path: Path, number: float, model: Signature, *, are_lists: bool
) -> None:
    columns = {"a": [[number, 2.0], [3.0, 4.0]]} if are_lists else {"a": [number, 3.0], "b": [2.0, 4.0]}

    chunk = read(tmp_path, columns, model, missing=0.0)

    assert chunk.tensors["input"].tolist() == [[3.0, 4.0]]
    assert chunk.faults[0] == f"row 1: column 'a': '{number}' is no number; give a finite one"


def test_a_number_stands_for_the_missing_values_in_lists(tmp_path: Path) -> None:
    lists = {"anything": [[1.0, None], [math.nan, 4.0], None]}

    chunk = read(tmp_path, lists, PAIRS, missing=-1.0)
    assert chunk.tensors["input"].tolist() == [[1.0, -1.0], [-1.0, 4.0]]
    assert list(chunk.faults) == [2]

    named = {"input_ids": [[5, None, 7], [8]], "attention_mask": [[1, 1, 1], [None]]}
    tensors = read(tmp_path, named, TOKENS, missing=0).tensors
    assert tensors["input_ids"].tolist() == [[5, 0, 7], [8, 0, 0]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]

    texts = signature(TensorSpec(name="text", datatype="BYTES", shape=(-1, 2)))
    assert list(read(tmp_path, {"text": [["a", None], ["b", "c"]]}, texts, missing=0.0).faults) == [0]


WIDE = signature(TensorSpec(name="input", datatype="FP64", shape=(-1, 2), allow_nan=True))
COUNTS = signature(TensorSpec(name="input", datatype="UINT64", shape=(-1, 2)))
SMALL = signature(
    TensorSpec(name="b", datatype="INT8", shape=(-1,)), TensorSpec(name="a", datatype="FP16", shape=(-1, 1))
)
ORDERED = signature(
    TensorSpec(
        name="input",
        datatype="FP32",
        shape=(-1, 2),
        columns=(Column(name="b", default=7.0), Column(name="a")),
    )
)
NUMBERS = {
    "plain": pa.array([1.0, 2.5, -0.0, 3.0]),
    "whole": pa.array([1, 2, 3, 4], pa.int8()),
    "floats of whole numbers": pa.array([1.0, 2.0, -3.0, 4.0], pa.float32()),
    "missing": pa.array([1.0, None, 3.0, math.nan]),
    "missing whole numbers": pa.array([1, None, 3, 4]),
    "infinite": pa.array([1.0, math.inf, 3.0, 4.0]),
    "out of range": pa.array([1.0, 1e300, 3.0, -300.0]),
    "large": pa.array([2**53 + 1, 2**63 - 1, 0, -(2**53) - 1]),
    "larger": pa.array([2**64 - 1, 0, 1, 2], pa.uint64()),
    "text": pa.array(["1", "2", "3", "4"]),
    "truth": pa.array([True, False, True, False]),
    "decimal": pa.array([Decimal("1.5"), Decimal("2.5"), Decimal("3.5"), Decimal("4.5")]),
}


@pytest.mark.parametrize("model", [PAIRS, WIDE, COUNTS, SMALL, ORDERED], ids=["f4", "f8", "u8", "i1", "named"])
@pytest.mark.parametrize("missing", [None, 0.1])
@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_that_are_read_at_once_say_what_they_say_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, missing: float | None, model: Signature
) -> None:
    columns = {"a": NUMBERS[kind], "b": pa.array([1.0, 2.0, 3.0, 4.0])}
    at_once = read(tmp_path, columns, model, missing=missing)
    monkeypatch.setattr(ParquetRows, "tensors", lambda *_: None)
    one_by_one = read(tmp_path, columns, model, missing=missing)

    assert (at_once.positions, at_once.faults, at_once.rejects) == (
        one_by_one.positions,
        one_by_one.faults,
        one_by_one.rejects,
    )
    assert at_once.tensors.keys() == one_by_one.tensors.keys()
    for name, array in at_once.tensors.items():
        assert (array.dtype, array.shape) == (one_by_one.tensors[name].dtype, one_by_one.tensors[name].shape)
        assert array.tobytes() == one_by_one.tensors[name].tobytes()


@pytest.mark.parametrize(
    "lists",
    [
        pa.array([[1.0, 2.0], [3.0, 4.0]]),
        pa.array([[1.0, 2.0], [3.0]]),
        pa.array([[1.0, 2.0], None]),
        pa.array([[1.0, None], [3.0, 4.0]]),
        pa.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        pa.array([[1, 2], [3, 4]], pa.large_list(pa.int32())),
        pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0], pa.float32()), 2),
    ],
    ids=str,
)
def test_lists_that_are_read_at_once_say_what_they_say_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: pa.Array
) -> None:
    at_once = read(tmp_path, {"a": lists}, PAIRS)
    monkeypatch.setattr(ParquetRows, "tensors", lambda *_: None)
    one_by_one = read(tmp_path, {"a": lists}, PAIRS)

    assert (at_once.positions, at_once.faults) == (one_by_one.positions, one_by_one.faults)
    assert {name: array.tolist() for name, array in at_once.tensors.items()} == {
        name: array.tolist() for name, array in one_by_one.tensors.items()
    }


def test_plain_numbers_are_read_without_an_object_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the fast path: what the other tests compare must not be the slow one twice."""
    monkeypatch.setattr(ParquetRows, "rows", None)
    assert read(tmp_path, {"a": NUMBERS["plain"], "b": NUMBERS["whole"]}, PAIRS).row_count == 4
    assert read(tmp_path, {"a": NUMBERS["missing"], "b": NUMBERS["plain"]}, WIDE).row_count == 4
    assert read(tmp_path, {"a": pa.array([[1.0, 2.0], [3.0, 4.0]])}, PAIRS).row_count == 2


def test_chunks_are_full_and_in_order_across_row_groups_and_beside_a_fault(tmp_path: Path) -> None:
    values = [float(number) for number in range(10_000)]
    table = pa.table({"a": values, "b": pa.array([None if at == 7_000 else 1.0 for at in range(10_000)])})
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path, row_group_size=777)

    chunks = list(RowFile(path, PAIRS).chunks(rows_per_chunk=256))

    assert [chunk.row_count for chunk in chunks] == [256] * 39 + [16]
    assert [chunk.first_row for chunk in chunks] == list(range(0, 10_000, 256))
    assert [reject.row for chunk in chunks for reject in chunk.rejects] == [7_000]
    read_back = [row[0] for chunk in chunks for row in chunk.tensors["input"].tolist()]
    assert read_back == [value for value in values if value != 7_000]
