"""Files and names as nobody should give them to `models add`: each ends in one sentence, and the store is as before."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import InferlaneError
from models.adding.addition import Addition, add
from models.adding.inspection import inspect
from tests.support.fakes.stores import write_tiny_onnx
from tests.support.graphs import model_of, value
from workers.model_check import tried_rows

ROWS = np.random.default_rng(0).random((20, 3)).astype(np.float32)


def zip_mapped() -> bytes:
    fitted = LogisticRegression().fit(ROWS, ["down", "up"] * 10)
    content: bytes = to_onnx(fitted, ROWS[:1], target_opset={"": 21, "ai.onnx.ml": 3}).SerializeToString()
    return content


WHOLE = zip_mapped()
# Where, and what stands there instead of how many bytes.
PLACES = st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(max_size=8), st.integers(0, 8))


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(PLACES, min_size=1, max_size=8))
@example(places=[(WHOLE.index(b"probabilities"), b"\xef", 1)])
def test_a_file_that_is_spoilt_anywhere_is_inspected_or_refused(
    tmp_path: Path, places: list[tuple[int, bytes, int]]
) -> None:
    spoilt = bytearray(WHOLE)
    for start, instead, length in sorted(places, reverse=True):
        spoilt[start : start + length] = instead
    path = tmp_path / "model.onnx"
    path.write_bytes(spoilt)
    with suppress(InferlaneError):
        inspect(path)


def added(tmp_path: Path, source: str, **about: Any) -> None:
    plain: dict[str, Any] = {"version": None, "check": None, "tolerance": 1e-4, "timeout_s": 60, "model": "odd"}
    add(Addition(source=source, models_dir=tmp_path / "store", **plain | about), say=lambda _: None)


@pytest.mark.parametrize("name", ["a" * 300, "日本", "modèle", "a b", "a\nb", "a/b", "..", "", "-a", "A" * 64, "a\0b"])
def test_a_name_that_nothing_could_hold_is_refused(tmp_path: Path, name: str) -> None:
    write_tiny_onnx(tmp_path / "model.onnx")

    for about in ({"model": name}, {"version": name}) if name else ({"model": name},):
        with pytest.raises(InferlaneError, match="name"):
            added(tmp_path, str(tmp_path / "model.onnx"), **about)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "source", ["a" * 300 + ".onnx", "a\0b.onnx", "", "日本.onnx", "~nobody/model.onnx", "file:///nowhere.onnx"]
)
def test_a_source_that_cannot_be_a_file_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InferlaneError):
        added(tmp_path, source)
    assert not (tmp_path / "store" / "odd").exists()


def wide(width: int) -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    return model_of(nodes, [value("x", ("rows", width))], [value("y", ("rows", 1))], weights=[axes])


def huge_answer() -> onnx.ModelProto:
    """A few bytes that answer a row with a terabyte."""
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 2**19, 2**19])
    return model_of(nodes, [value("x", ("rows", 1, 1))], [value("y", ("rows", 2**19, 2**19))], weights=[shape])


def nameless() -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = model_of(nodes, [value("x", ("rows", 2))], [value("y", ("rows", 2))])
    model.graph.input[0].name = ""
    return model


def test_rows_that_fill_the_memory_are_tried_a_few_at_a_time() -> None:
    """Guards the child process, and the workers beside it: 256 of the largest rows are 64 GiB."""

    def tried(*row: int) -> int:
        spec = TensorSpec(name="x", datatype="FP32", shape=(-1, *row))
        return tried_rows(Signature.of_graph(inputs=(spec,), outputs=(spec,)), 256)

    assert (tried(3, 224, 224), tried(2**20), tried(2**26)) == (256, 128, 2)


@pytest.mark.parametrize(
    "make",
    [lambda: wide(2**27), lambda: wide(2**62), huge_answer, nameless],
    ids=["wide", "wider", "answer", "nameless"],
)
@pytest.mark.timeout(180)
def test_a_graph_that_no_worker_could_run_is_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())

    with pytest.raises(InferlaneError) as refused:
        added(tmp_path, str(tmp_path / "model.onnx"))
    assert "Traceback" not in str(refused.value)
    assert not (tmp_path / "store" / "odd").exists()
