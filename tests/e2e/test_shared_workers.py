"""Small versions that share one process of the real stack: they come, go, fail, and outlive a kill of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inferlane.runtime.runfile import ProcessRecord, RunFile
from models.adding.publication import write_version
from models.store import write_model
from tests.support.fakes.stores import describe_tiny, write_tiny_onnx, write_tiny_store
from tests.support.folder_stack import FolderStack

pytestmark = pytest.mark.timeout(400)

ROW = [[1.0, 2.0, 3.0]]
LARGE_BYTES = 100_000


def _write(models: Path, model: str) -> Path:
    write_version(models, model=model, version="v1", write_onnx=write_tiny_onnx, describe=describe_tiny)
    write_model(models / model, description="", default_version="v1", classes=("a", "b", "c"))
    return models / model / "v1" / "model.onnx"


def _write_large(path: Path) -> None:
    import onnx  # noqa: PLC0415 - to make one

    write_tiny_onnx(path)
    model = onnx.load(path)
    model.doc_string = "x" * LARGE_BYTES
    onnx.save(model, path)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderStack]:
    folder = tmp_path_factory.mktemp("shared")
    models = folder / "models"
    write_tiny_store(models)
    for model in ("small", "broken"):
        _write(models, model)
    (models / "broken" / "v1" / "model.onnx").write_bytes(b"not what was published")
    write_version(models, model="large", version="v1", write_onnx=_write_large, describe=describe_tiny)
    write_model(models / "large", description="", default_version="v1", classes=("a", "b", "c"))
    write_tiny_onnx(folder / "export.onnx")
    stack = FolderStack(folder, INFERLANE_SHARED_WORKER_MAX_MODEL_BYTES=str(LARGE_BYTES))
    started = stack.run("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        yield stack
    finally:
        stack.run("down")


def _processes(stack: FolderStack) -> dict[str, ProcessRecord]:
    record = RunFile(Path(stack.environment["INFERLANE_STATE_DIR"])).read()
    assert record is not None
    return {process.name: process for process in record.processes}


def _answers(stack: FolderStack, model: str) -> bool:
    status, body = stack.call("/v1/models/predict", {"model": model, "instances": ROW, "timeout_s": 60})
    return status == 200 and body["model"] == model


def _fault(stack: FolderStack, model: str) -> Any:
    record = RunFile(Path(stack.environment["INFERLANE_STATE_DIR"])).read()
    assert record is not None
    return next((msgspec.to_builtins(fault)["reason"] for fault in record.faults if fault.model == model), None)


def test_small_versions_share_a_process_a_large_one_has_its_own_and_a_bad_one_is_shown(stack: FolderStack) -> None:
    processes = _processes(stack)
    assert processes["worker-shared-1"].versions == ("broken/v1", "small/v1", "tiny/v1")
    workers = {name for name in processes if name.startswith("worker-")}
    assert workers == {"worker-shared-1", "worker-large-v1-1"}
    assert all(_answers(stack, model) for model in ("tiny", "small", "large"))
    assert "model.onnx" in _fault(stack, "broken")
    shown = stack.run("status")
    assert shown.returncode == 1
    assert "broken" in shown.stdout


def test_a_version_comes_and_goes_while_the_process_goes_on(stack: FolderStack) -> None:
    before = _processes(stack)["worker-shared-1"]
    source = str(Path(stack.environment["INFERLANE_MODELS_DIR"]).parent / "export.onnx")
    added = stack.run("models", "add", source, "--name", "coming")
    assert added.returncode == 0, added.stdout + added.stderr
    assert _answers(stack, "coming")
    assert "coming/v1" in _processes(stack)["worker-shared-1"].versions
    retired = stack.run("models", "retire", "coming/v1")
    assert retired.returncode == 0, retired.stdout + retired.stderr
    after = _processes(stack)["worker-shared-1"]
    assert "coming/v1" not in after.versions
    assert (after.pid, after.restarts) == (before.pid, before.restarts)
    assert _answers(stack, "small")


def test_a_kill_of_the_process_costs_none_of_its_versions_a_request(stack: FolderStack) -> None:
    killed = _processes(stack)["worker-shared-1"].pid
    os.kill(killed, signal.SIGKILL)
    assert all(_answers(stack, model) for model in ("tiny", "small"))
    stack.eventually(lambda: _processes(stack)["worker-shared-1"].state == "ready")
    assert _processes(stack)["worker-shared-1"].pid != killed
