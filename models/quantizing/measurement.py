"""Measurement: every int8 form of a version is made, loaded as a worker loads it, and measured, in a child process."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from inferlane.errors import ConfigurationError, ModelError, clipped
from models.adding.isolated_run import answer_order, run_in_child
from models.quantizing.gate import MeasuredForm
from models.timing import interleaved_medians_us

if TYPE_CHECKING:
    from models.quantizing.held_out import CalibrationSplit
    from models.quantizing.methods import Method
    from workers.model import OnnxModel

# Alone, a few, as many as a busy worker drains, and a full batch.
MEASURED_ROWS = (1, 8, 64, 256)
_BATCH_ROWS = 256
# Rows that are run alone to see whether the rows beside them change their answers.
_COMPARED_ROWS = 16
# Of all runs with one number of rows: 2 forms, enough turns for a steady median.
_LIMIT_S = 4.0
_SHOWN_CHARS = 300
FLOAT32 = "float32"


class MeasurementOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be quantized and measured: a version of the store, and rows; forms are written to `target`."""

    models_dir: str
    model: str
    version: str
    data: str
    labels: str | None
    approach: str | None
    threads: int
    target: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The float32 version and each int8 form of it, on the same held-out rows."""

    source: MeasuredForm
    forms: tuple[MeasuredForm, ...]
    calibration_rows: int
    held_out_rows: int
    output: str


def measure_in_child(order: MeasurementOrder, *, scratch: Path, timeout_s: float) -> Measurement:
    """Make and measure the forms of a version in a child process.

    Raises:
        ConfigurationError: it cannot be loaded, the rows do not fit it, or it took too long.
    """
    return run_in_child(
        "models.quantizing.measurement", order, Measurement, what="the model", scratch=scratch, timeout_s=timeout_s
    )


def form_path(target: Path, method: str) -> Path:
    """Where the form that a method has made lies."""
    return target / method / "model.onnx"


def _measure(order: MeasurementOrder) -> Measurement:
    # onnxruntime is loaded in the child alone: the command itself must not crash with a model.
    from models.quantizing.held_out import agreement, check_answered, deciding_output, read_split  # noqa: PLC0415
    from models.quantizing.methods import Approach, fitting_methods, operators_of  # noqa: PLC0415
    from models.store_reader import load_model  # noqa: PLC0415
    from workers.model_check import load_verified  # noqa: PLC0415

    version = load_model(Path(order.models_dir) / order.model).version(order.version)
    methods = fitting_methods(version.path, Approach(order.approach) if order.approach else None)
    if not methods:
        approach = f"{order.approach} " if order.approach else ""
        raise ConfigurationError(
            f"{order.model} {order.version} has nothing that {approach}int8 could make faster: that is products with "
            f"weights (MatMul, Gemm, Conv), and its operators are {', '.join(sorted(operators_of(version.path))[:10])}"
        )
    deciding = deciding_output(version.signature)
    classes = version.class_names.get(deciding.name, version.classes)
    split = read_split(Path(order.data), version.signature, {deciding.name: classes}, labels=order.labels)
    source = load_verified(version, intra_op_num_threads=order.threads, rows=_BATCH_ROWS)
    wanted = _answers(source, split.held_out)[deciding.name]
    if split.labels is not None:
        check_answered(Path(order.data), split.labels, wanted, deciding)
    forms = [_form(order, source, split, method) for method in methods]
    models = [source, *(form.model for form in forms if form.model)]
    latencies_us = dict(zip(map(id, models), _latencies_us(models, split.held_out), strict=True))

    def measured(model: "OnnxModel", method: str) -> MeasuredForm:
        answers = wanted if model is source else _answers(model, split.held_out)[deciding.name]
        return MeasuredForm(
            method=method,
            size_bytes=model.version.size_bytes,
            latency_us=latencies_us[id(model)],
            accuracy=None if split.labels is None else agreement(answers, split.labels, deciding),
            agreement=agreement(answers, wanted, deciding),
            rows_alone=model.version.rows_alone,
        )

    return Measurement(
        source=measured(source, FLOAT32),
        forms=tuple(
            measured(form.model, form.method.name)
            if form.model
            else MeasuredForm(method=form.method.name, fault=form.fault)
            for form in forms
        ),
        calibration_rows=len(next(iter(split.calibration.values()))),
        held_out_rows=len(wanted),
        output=deciding.name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """An int8 form that is loaded, or why there is none."""

    method: "Method"
    model: "OnnxModel | None" = None
    fault: str = ""


def _form(order: MeasurementOrder, source: "OnnxModel", split: "CalibrationSplit", method: "Method") -> _Form:
    from models.artifact import read_artifact  # noqa: PLC0415 - as above
    from models.quantizing.methods import quantize  # noqa: PLC0415
    from workers.model import OnnxModel  # noqa: PLC0415
    from workers.model_check import load_verified, row_dependence  # noqa: PLC0415

    path = form_path(Path(order.target), method.name)
    path.parent.mkdir()
    try:
        for name in source.version.files:
            shutil.copyfile(source.version.path.with_name(name), path.with_name(name))
        quantize(source.version.path, path, method, calibration=_calibration(source, split))
        artifact = read_artifact(path, source.version.files)
    except Exception as error:  # noqa: BLE001 - whatever the quantizer raises for a graph that it cannot quantize
        text = clipped(f"{type(error).__name__}: {error}", limit_chars=_SHOWN_CHARS)
        return _Form(method=method, fault=f"onnxruntime's quantizer fails: {text}")
    version = replace(
        source.version, path=path, digest=artifact.digest, size_bytes=artifact.size_bytes, quantization=method.name
    )
    some = {name: array[:_COMPARED_ROWS] for name, array in split.held_out.items()}
    try:
        tried = OnnxModel(version, intra_op_num_threads=order.threads)
        alone = source.version.rows_alone or (row_dependence(tried, some) or row_dependence(tried)) is not None
        version = replace(version, rows_alone=alone)
        model = load_verified(version, intra_op_num_threads=order.threads, rows=_BATCH_ROWS)
        model.run(some)
    except (ConfigurationError, ModelError) as error:
        return _Form(method=method, fault=clipped(str(error), limit_chars=_SHOWN_CHARS))
    return _Form(method=method, model=model)


def _calibration(source: "OnnxModel", split: "CalibrationSplit") -> list[dict[str, np.ndarray]]:
    """The calibration rows as the graph gets them."""
    from models.quantizing.held_out import calibration_runs  # noqa: PLC0415 - as above

    if source.steps is None:
        return calibration_runs(split, source.version.signature)
    runs: list[dict[str, np.ndarray]] = []

    def run_graph(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs.append(dict(inputs))
        return source.run_graph(inputs)

    source.steps.run(split.calibration, run_graph)
    return runs


def _answers(model: "OnnxModel", rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(next(iter(rows.values())))
    parts = [
        model.run({name: array[start : start + _BATCH_ROWS] for name, array in rows.items()})
        for start in range(0, count, _BATCH_ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _latencies_us(models: "Sequence[OnnxModel]", rows: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    """The median latencies of each model by rows of a run."""
    count = len(next(iter(rows.values())))
    latencies: list[dict[str, float]] = [{} for _ in models]
    for size in MEASURED_ROWS:
        batch = {name: array[np.arange(size) % count] for name, array in rows.items()}
        medians = interleaved_medians_us([partial(model.run, batch) for model in models], limit_s=_LIMIT_S)
        for found, median in zip(latencies, medians, strict=True):
            found[str(size)] = round(median, 1)
    return latencies


if __name__ == "__main__":
    answer_order(MeasurementOrder, _measure)
