"""Checking: a model is loaded, run and measured in a process of its own, because a bad one may crash or never end."""

import statistics
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Signature, numpy_dtype
from inferlane.errors import ConfigurationError, InvalidInputError, ModelError, clipped
from models.adding.export_steps import DeclaredSteps, infer_steps, read_steps
from models.adding.graph_notes import NO_NOTES, GraphNotes
from models.adding.isolated_run import answer_order, run_in_child
from models.adding.reference_comparison import ReferenceComparison, compare
from models.execution import ON_CPU, Execution, check_installed

if TYPE_CHECKING:
    from models.artifact import Artifact
    from workers.model import OnnxModel

MEASURED_ROWS = (1, 64)
_RUNS, _MEASURE_S = 50, 2.0
# As many as a worker's first batch may have.
_BATCH_ROWS = 256
_SHOWN_CHARS = 1_000


class CheckOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be checked: the folder of a version, and rows with expected answers if there are some."""

    folder: str
    # The class names of the outputs of the graph, and those of the model that the version is one of.
    classes: Mapping[str, tuple[str, ...]]
    model_classes: tuple[str, ...]
    rows: str | None
    # Rows with the predictions of the library that the model was converted from.
    predictions: str | None = None
    tolerance: float
    rows_alone: bool = False
    execution: Execution = ON_CPU
    notes: GraphNotes = NO_NOTES
    # The steps around the graph: a file that declares them, or the export in whose files they are found.
    steps: str | None = None
    export: str | None = None
    max_length: int | None = None
    pairs: bool = False
    # Those beside the model.
    files: tuple[str, ...] = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a model showed."""

    # What clients see, and the graph itself.
    signature: Signature
    graph: Signature
    declared: DeclaredSteps
    latency_us: Mapping[str, float]
    accepts_nan: bool
    # What it ran on here: the CPU, where a provider that it asks for is not installed.
    providers: tuple[str, ...] = ON_CPU.providers
    comparison: ReferenceComparison | None = None
    library_comparison: ReferenceComparison | None = None


def check_in_child(order: CheckOrder, *, scratch: Path, timeout_s: float) -> Checked:
    """Check a version in a child process.

    Raises:
        ConfigurationError: it cannot be served, it crashed, or it took too long.
    """
    return run_in_child(
        "models.adding.checking", order, Checked, what="the model", scratch=scratch, timeout_s=timeout_s
    )


def _check(order: CheckOrder) -> Checked:
    # onnxruntime is loaded in the child alone: the command itself must not crash with a model.
    from models.adding.check_rows import read_check_rows  # noqa: PLC0415
    from models.artifact import read_artifact  # noqa: PLC0415
    from models.catalog import ModelVersion  # noqa: PLC0415
    from models.described_classes import label_classes, with_steps  # noqa: PLC0415
    from workers.model_check import load_verified, tried_rows  # noqa: PLC0415

    path = Path(order.folder) / "model.onnx"
    artifact = read_artifact(path, order.files)
    graph = _described_graph(order, artifact)
    declared = _declared(order, graph)
    steps = declared.around(graph)
    signature = graph if steps is None else steps.public()
    named = with_steps(order.classes, steps)
    version = ModelVersion(
        model="added",
        version="new",
        path=path,
        signature=signature,
        classes=label_classes(signature.outputs, named, order.model_classes),
        declared_classes=named,
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        quantization="none",
        rows_alone=order.rows_alone,
        execution=_executable_here(order.execution),
        steps=steps,
        files=order.files,
    )
    model = load_verified(version, intra_op_num_threads=1, rows=_BATCH_ROWS)

    def compared(path: str | None, expected_of: str) -> ReferenceComparison | None:
        if path is None:
            return None
        rows = read_check_rows(Path(path), signature, named)
        try:
            outputs = _run_in_batches(model, rows.inputs)
        except (ModelError, InvalidInputError) as error:
            raise ConfigurationError(f"the rows of {path} fail: {error}") from error
        return compare(outputs, rows.expected, order.tolerance, expected_of=expected_of)

    return Checked(
        signature=signature,
        graph=graph,
        declared=declared,
        latency_us={
            str(count): _latency_us(model, count) for count in MEASURED_ROWS if tried_rows(graph, count) == count
        },
        accepts_nan=_accepts_nan(model),
        providers=version.execution.providers,
        comparison=compared(order.rows, "what is expected"),
        library_comparison=compared(order.predictions, "what the library predicts"),
    )


def _described_graph(order: CheckOrder, artifact: "Artifact") -> Signature:
    """The signature as it will be read from version.toml."""
    from models.described_tensors import described_signature  # noqa: PLC0415 - as above
    from models.files import VersionFile  # noqa: PLC0415 - as above
    from models.store import VersionAbout, version_toml  # noqa: PLC0415

    loaded = _loaded_signature(artifact.model, artifact.external)
    graph = Signature.of_graph(loaded.inputs, loaded.outputs, has_row_axis=order.notes.has_row_axis)
    about = VersionAbout(quantization="none", signature=order.notes.noted(graph), metrics={}, quantized={})
    described = msgspec.convert(tomllib.loads(version_toml(about, artifact)), VersionFile)
    try:
        return described_signature(described, Path(order.folder))
    except ConfigurationError as error:
        # There is no such file yet that a person could correct.
        raise ConfigurationError(str(error).replace(f"{Path(order.folder) / 'version.toml'}: ", "")) from error


def _declared(order: CheckOrder, graph: Signature) -> DeclaredSteps:
    """The steps of the version; none of one that takes what its graph takes."""
    if order.steps is not None:
        return read_steps(Path(order.steps))
    if order.export is not None:
        return infer_steps(Path(order.export), graph, max_length=order.max_length, pairs=order.pairs)
    return DeclaredSteps()


def _executable_here(execution: Execution) -> Execution:
    """Where a model is checked: one for a GPU may be added where there is none, but serves only where there is."""
    import onnxruntime  # noqa: PLC0415 - as above

    try:
        check_installed(execution, onnxruntime.get_available_providers())
    except ConfigurationError:
        return ON_CPU
    return execution


def _loaded_signature(model: bytes, external: Mapping[str, bytes]) -> Signature:
    import onnxruntime  # noqa: PLC0415 - as above

    from models.model_session import open_session, signature_of  # noqa: PLC0415

    try:
        return signature_of(open_session(model, external))
    except Exception as error:  # onnxruntime raises pybind types of its own with no common base
        raise ConfigurationError(
            f"onnxruntime {onnxruntime.__version__} cannot load it: {clipped(str(error), limit_chars=_SHOWN_CHARS)}"
            f"{_remedy(str(error))}"
        ) from error


def _remedy(message: str) -> str:
    if "IR version" in message:
        return " Export it with an older IR version (`ir_version` of the model)."
    if "pset" in message:
        return " Export it with an older opset (`opset_version`, `target_opset`)."
    return ""


def _run_in_batches(model: "OnnxModel", inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(next(iter(inputs.values())))
    parts = [
        model.run({name: array[start : start + _BATCH_ROWS] for name, array in inputs.items()})
        for start in range(0, count, _BATCH_ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _latency_us(model: "OnnxModel", rows: int) -> float:
    inputs = _filled(model, rows, 0)
    samples: list[float] = []
    end = time.perf_counter() + _MEASURE_S
    while len(samples) < _RUNS and (not samples or time.perf_counter() < end):
        started = time.perf_counter()
        model.run(inputs)
        samples.append(time.perf_counter() - started)
    return round(statistics.median(samples) * 1e6, 1)


def _accepts_nan(model: "OnnxModel") -> bool:
    inputs = _filled(model, 2, np.nan)
    if not any(array.dtype.kind == "f" for array in inputs.values()):
        return False
    try:
        outputs = model.run(inputs)
    except ModelError:
        return False
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())


def _filled(model: "OnnxModel", rows: int, value: float) -> dict[str, np.ndarray]:
    dtypes = {spec.name: (numpy_dtype(spec.datatype), spec.row_shape) for spec in model.version.signature.inputs}
    made = {} if model.steps is None else model.steps.samples(rows)
    return made | {
        # A free axis has one value.
        name: np.full((rows, *map(abs, shape)), value if dtype.kind == "f" else 0, dtype)
        for name, (dtype, shape) in dtypes.items()
        if name not in made
    }


if __name__ == "__main__":
    answer_order(CheckOrder, _check)
