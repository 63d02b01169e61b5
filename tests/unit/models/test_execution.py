"""Where a version runs: what onnxruntime is told, and that less than what was asked for is an error."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError
from models.adding.addition import Addition, add
from models.catalog import ModelVersion
from models.execution import (
    Execution,
    check_in_use,
    check_installed,
    parsed_execution,
    provider_options,
    session_config,
)
from models.model_session import open_session
from models.store_reader import load_catalog
from models.verify import verify_version
from tests.support import graphs
from workers.model import OnnxModel

ON_GPU = Execution(providers=("tensorrt", "cuda", "cpu"), memory_limit_mib=512, device=1)
SIGNATURE = Signature.of_graph(
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 3)),),
    outputs=(TensorSpec(name="output", datatype="FP32", shape=(-1, 3)),),
)


def add_to(folder: Path, execution: Execution) -> None:
    (folder / "export.onnx").write_bytes(graphs.plain().SerializeToString())
    addition = Addition(
        source=str(folder / "export.onnx"),
        model="net",
        version=None,
        models_dir=folder / "store",
        check=None,
        tolerance=1e-4,
        timeout_s=120.0,
        execution=execution,
    )
    add(addition, say=lambda _: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    add_to(folder, Execution())
    return folder / "store"


def added(store: Path, folder: Path, runtime: str = "") -> ModelVersion:
    shutil.copytree(store, folder / "store")
    about = folder / "store" / "net" / "v1" / "version.toml"
    about.write_text(about.read_text() + runtime, encoding="utf-8")
    return load_catalog(folder / "store", default_model="net").model().version("v1")


def test_what_is_added_for_a_gpu_is_checked_without_one_and_does_not_start_without_one(tmp_path: Path) -> None:
    add_to(tmp_path, Execution(providers=("cuda", "cpu")))

    report = msgspec.json.decode((tmp_path / "store" / "net" / "v1" / "report.json").read_bytes())
    assert report["checked"]["providers"] == ["cpu"]
    version = load_catalog(tmp_path / "store", default_model="net").model().version("v1")
    assert version.execution.providers == ("cuda", "cpu")
    with pytest.raises(
        ConfigurationError, match=r"asks for the provider cuda, which is not installed\. Installed: .*cpu"
    ):
        verify_version(version)


def test_a_provider_that_is_installed_and_did_not_start_is_an_error() -> None:
    installed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    check_installed(Execution(providers=("cuda", "cpu")), installed)

    with pytest.raises(ConfigurationError, match="installed and could not be started; in use is cpu"):
        check_in_use(Execution(providers=("cuda", "cpu")), ["CPUExecutionProvider"])
    check_in_use(Execution(providers=("cuda", "cpu")), installed)


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ('[runtime]\nprovider = ["cuda"]\n', "provider"),
        ("[runtime]\nproviders = []\n", "providers"),
        ('[runtime]\nproviders = ["cpu", "cpu"]\n', "named twice"),
        ('[runtime]\nproviders = ["cpu"]\nbatch_sizes = [8, 1]\n', "must ascend"),
        ('[runtime]\nproviders = ["cpu"]\nbatch_sizes = [0]\n', "batch_sizes"),
        ('[runtime]\nproviders = ["cpu"]\nthreads = 0\n', "threads"),
    ],
)
def test_a_table_with_a_mistake_is_not_run_on_the_cpu_instead(
    store: Path, tmp_path: Path, runtime: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        added(store, tmp_path, runtime)


def test_a_session_has_the_providers_and_threads_of_its_version(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.plain().SerializeToString())
    # A second provider that every build of onnxruntime has.
    other = next(name for name in onnxruntime.get_available_providers() if name != "CPUExecutionProvider")
    execution = Execution(providers=(other.removesuffix("ExecutionProvider").lower(), "cpu"))

    session = open_session(path, threads=2, execution=execution)

    assert session.get_providers() == [other, "CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 2
    # Without the CPU nothing may run there.
    with pytest.raises(Exception, match="CPU EP"):
        open_session(path, execution=Execution(providers=execution.providers[:1]))


def test_a_gpu_gets_a_memory_limit_a_device_and_few_shapes() -> None:
    options = dict(provider_options(ON_GPU, SIGNATURE))

    assert list(options) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert options["CUDAExecutionProvider"] == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(512 * 1024 * 1024),
    }
    profile = {name: value for name, value in options["TensorrtExecutionProvider"].items() if "profile" in name}
    assert profile == {
        "trt_profile_min_shapes": "input:1x3",
        "trt_profile_opt_shapes": "input:32x3",
        "trt_profile_max_shapes": "input:256x3",
    }
    assert session_config(ON_GPU) == {}
    assert session_config(Execution(providers=("cuda",))) == {"session.disable_cpu_ep_fallback": "1"}
    assert Execution().sizes == ()


def test_batches_are_filled_up_to_the_sizes_of_the_version(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = replace(added(store, tmp_path), execution=Execution(batch_sizes=(2, 4)))
    model = OnnxModel(version, intra_op_num_threads=1)
    seen: list[int] = []
    run = model._run_once

    def counted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(inputs["input"]))
        return run(inputs)

    monkeypatch.setattr(model, "_run_once", counted)
    rows = np.random.default_rng(1).normal(0, 1, (11, 3)).astype(np.float32)
    for count in (1, 2, 3, 11):
        outputs = model.run({"input": rows[:count]})["output"]
        exact = np.exp(rows[:count]) / np.exp(rows[:count]).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(outputs, exact, rtol=1e-5)

    assert seen == [2, 2, 4, 4, 4, 4]


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT, TensorProto.INT64])
def test_bound_runs_answer_as_others_do_and_hold_nothing(tmp_path: Path, elem_type: int) -> None:
    from workers.model import _BoundRun  # noqa: PLC0415 - what only a GPU uses, on the CPU

    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.plain("Identity", elem_type=elem_type).SerializeToString())
    session = open_session(path)
    bound = _BoundRun(session, ["output"], onnxruntime.RunOptions())
    dtype = np.float32 if elem_type == TensorProto.FLOAT else np.int64
    first, second = np.arange(6, dtype=dtype).reshape(2, 3), np.arange(30, dtype=dtype).reshape(10, 3)

    answers = [bound.run({"input": rows[:, ::1]})[0] for rows in (first, second, first)]

    for found, rows in zip(answers, (first, second, first), strict=True):
        np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("text", ["", "cuda,", "CUDA Execution", "cpu,cpu"])
def test_a_command_line_without_provider_names_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--providers"):
        parsed_execution("--providers", providers=text)


def test_too_many_threads_are_no_fault_of_the_providers() -> None:
    with pytest.raises(ConfigurationError, match=r"^--threads 1025: Expected `int` <= 1024"):
        parsed_execution("--providers", providers="cpu", threads=1025)


def test_a_command_line_names_providers_in_any_case() -> None:
    assert parsed_execution("--providers", providers="CUDA, cpu", threads=3) == Execution(
        providers=("cuda", "cpu"), threads=3
    )
