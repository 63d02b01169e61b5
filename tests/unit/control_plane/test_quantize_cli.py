"""`inferlane models quantize` as a person runs it: the table, the verdict, and the exit codes that CI goes by."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support import graphs


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "control_plane", "models", *arguments, "--models-dir", "store"]
    repository = Path(__file__).parents[3]
    environment = {"PYTHONPATH": str(repository), "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)


def product() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.random.default_rng(1).normal(0, 1, (16, 4)).astype(np.float32), "weights")
    node = helper.make_node("MatMul", ["input", "weights"], ["logits"])
    return graphs.model_of(
        [node], [graphs.value("input", (None, 16))], [graphs.value("logits", (None, 4))], weights=[weights]
    )


def test_figures_are_printed_and_the_exit_code_says_whether_int8_pays(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(product().SerializeToString())
    np.savez(tmp_path / "rows.npz", input=np.random.default_rng(2).normal(0, 1, (60, 16)).astype(np.float32))
    added = run("add", "net.onnx", "--name", "net", cwd=tmp_path)
    assert added.returncode == 0, added.stderr

    refused = run("quantize", "net/v1", "--data", "rows.npz", "--min-speedup", "1000", cwd=tmp_path)
    passed = run(
        "quantize", "net/v1", "--data", "rows.npz", "--min-speedup", "0", "--max-accuracy-drop", "1", cwd=tmp_path
    )
    again = run("quantize", "net/v1", "--data", "rows.npz", cwd=tmp_path)
    malformed = run("quantize", "net", "--data", "rows.npz", cwd=tmp_path)

    assert (refused.returncode, passed.returncode, again.returncode, malformed.returncode) == (1, 0, 1, 2)
    assert "int8 does not pay for net/v1 on this machine: the fastest form is" in refused.stdout
    for seen in ("float32", "int8-static-per-channel", "int8-dynamic", "256 rows", "--min-speedup is 1000"):
        assert seen in refused.stdout
    assert "net v1-quantized in store/net/v1-quantized" in passed.stdout
    assert "is in the store already" in again.stderr
    assert "'net' names a model and no version; write net/VERSION" in " ".join(malformed.stderr.split())
