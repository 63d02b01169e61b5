"""What a field of a CSV file is for a model is what the same value is in JSON, in few lines and in many."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from control_plane.bulk.chunks import Chunk
from control_plane.bulk.formats import ReadOptions
from control_plane.bulk.rows import RowFile
from inferlane.contracts.wire.tensors import Signature, TensorSpec

LONG = 2**53 + 1


def chunk_of(path: Path, *inputs: TensorSpec) -> Chunk:
    (chunk,) = RowFile(path, Signature(inputs=inputs, outputs=()), ReadOptions()).chunks(rows_per_chunk=1_000)
    return chunk


def read(folder: Path, content: str, *inputs: TensorSpec) -> Chunk:
    (folder / "rows.csv").write_text(content)
    return chunk_of(folder / "rows.csv", *inputs)


def spec(datatype: str, *row_shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row_shape))


@pytest.mark.parametrize("filler", [0, 300], ids=["few rows", "many rows"])
@pytest.mark.parametrize(
    ("datatype", "written", "value"),
    [
        ("INT64", str(LONG), LONG),
        ("INT64", f"-{LONG}", -LONG),
        ("INT64", str(-(2**63)), -(2**63)),
        ("INT64", f" +00{LONG} ", LONG),
        ("UINT64", str(2**64 - 1), 2**64 - 1),
        ("INT64", "1e3", 1000),
        ("INT64", "-0", 0),
        ("FP64", "100000000000000000000", 1e20),
        ("BOOL", "true", True),
        ("BOOL", "FALSE", False),
    ],
)
def test_a_value_is_taken_exactly(tmp_path: Path, datatype: str, written: str, value: object, filler: int) -> None:
    plain = "true" if datatype == "BOOL" else "1"
    chunk = read(tmp_path, f"{plain},{plain}\n" * (filler + 1) + f"{plain},{written}\n", spec(datatype, 2))
    assert not chunk.faults
    assert chunk.tensors["x"][-1].tolist()[1] == value


@pytest.mark.parametrize("written", ["-0", "-0.0", "-0e5"])
def test_minus_zero_keeps_its_sign(tmp_path: Path, written: str) -> None:
    assert np.signbit(read(tmp_path, f"1,{written}\n", spec("FP64", 2)).tensors["x"]).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("datatype", "content", "values"),
    [("FP32", "1\n2.5\n", [1, 2.5]), ("INT64", f"1\n{LONG}\n", [1, LONG]), ("BYTES", "a\nb\n", ["a", "b"])],
)
def test_rows_that_are_one_value_are_lines_of_one_field(
    tmp_path: Path, datatype: str, content: str, values: list[object]
) -> None:
    assert read(tmp_path, content, spec(datatype)).tensors["x"].tolist() == values


def test_rows_that_are_one_value_are_the_only_column_of_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"any": [1.0, 2.5]}), tmp_path / "rows.parquet")
    assert chunk_of(tmp_path / "rows.parquet", spec("FP32")).tensors["x"].tolist() == [1, 2.5]
