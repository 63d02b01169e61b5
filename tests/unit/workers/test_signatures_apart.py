"""Versions of one model that differ in their signature: what unpinned requests may hold, and what a split may name."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from inferlane.contracts.traffic_split import make_split
from inferlane.errors import InvalidInputError, InvalidSplitError
from inferlane.runtime.split_table import SplitTable
from tests.support.fakes.graphs import add_graph, answers, as_record, catalog_of, open_made, read


def add(models_dir: Path, version: str, kind: int, *, name: str = "x", width: int = 2) -> None:
    add_graph(
        models_dir,
        [helper.make_node("Identity", [name], ["y"])],
        inputs=[(name, kind, [None, width])],
        outputs=[("y", kind, [None, width])],
        version=version,
    )


async def split_of(models_dir: Path, **weights: float) -> SplitTable:
    model = catalog_of(models_dir).model("made")
    split = make_split("made", weights, known=model.versions, changed_s=1.0)
    model.check_together(split)
    table = SplitTable()
    table.put("made", msgspec.json.encode(split))
    return table


async def test_a_canary_converts_the_numbers_of_unpinned_requests_to_its_own_width(tmp_path: Path) -> None:
    add(tmp_path, "v1", TensorProto.FLOAT)
    add(tmp_path, "v2", TensorProto.FLOAT16)
    splits = await split_of(tmp_path, v1=0.9, v2=0.1)
    record = as_record(tmp_path, [[1.5, 2.1]], splits=splits)
    assert answers(open_made(tmp_path), record)[0] == pytest.approx(np.array([[1.5, 2.1]]), rel=1e-6)
    canary = open_made(tmp_path, "v2")
    assert read(canary, record).tensors["x"].dtype == np.float16
    assert answers(canary, record) == [[[1.5, pytest.approx(2.1, rel=1e-3)]]]


async def test_what_one_version_of_the_split_cannot_hold_is_refused_for_all(tmp_path: Path) -> None:
    add(tmp_path, "v1", TensorProto.FLOAT)
    add(tmp_path, "v2", TensorProto.FLOAT16)
    splits = await split_of(tmp_path, v1=0.9, v2=0.1)
    with pytest.raises(InvalidInputError, match=r"input 'x'\[1\]\[0\] is 70000.0, which FP16 cannot hold.*'v2'"):
        as_record(tmp_path, [[1, 2], [70000, 1]], splits=splits)
    assert as_record(tmp_path, [[1, 2], [70000, 1]]).value
    with pytest.raises(InvalidInputError, match="FP16 cannot hold"):
        read(open_made(tmp_path, "v2"), as_record(tmp_path, [[70000, 1]]))


async def test_without_the_default_version_in_the_split_requests_are_read_as_those_that_get_them(
    tmp_path: Path,
) -> None:
    add(tmp_path, "v1", TensorProto.FLOAT)
    add(tmp_path, "v2", TensorProto.FLOAT, width=3)
    record = as_record(tmp_path, [[1, 2, 3]], splits=await split_of(tmp_path, v2=1.0))
    assert answers(open_made(tmp_path, "v2"), record) == [[[1.0, 2.0, 3.0]]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 3}, r"rows of FP32 \[2\] in one and of FP32 \[3\] in the other"),
        ({"name": "features"}, "inputs are called x in one and features in the other"),
        ({"kind": TensorProto.INT64}, r"FP32 \[2\] in one and of INT64 \[2\]"),
        ({"kind": TensorProto.STRING}, r"FP32 \[2\] in one and of BYTES \[2\]"),
    ],
)
async def test_a_split_between_versions_that_no_request_fits_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, int | str], says: str
) -> None:
    add(tmp_path, "v1", TensorProto.FLOAT)
    add(tmp_path, "v2", **{"kind": TensorProto.FLOAT} | change)  # type: ignore[arg-type]  # one of them is changed
    with pytest.raises(InvalidSplitError, match=f"'v1' and 'v2' of model 'made' cannot share traffic: .*{says}"):
        await split_of(tmp_path, v1=0.5, v2=0.5)
    await split_of(tmp_path, v1=1.0, v2=0.0)
