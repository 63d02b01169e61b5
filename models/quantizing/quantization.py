"""Quantization of a version of the store: measured, judged by the gate, and published if it pays."""

import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from inferlane.contracts.naming import check_version_name
from inferlane.errors import ConfigurationError
from models.adding.publication import Published, check_free, preparation, publish
from models.artifact import Artifact, read_artifact
from models.catalog import ModelVersion
from models.quantizing.gate import Judged, Limits, MeasuredForm, best, judge, speedups
from models.quantizing.measurement import Measurement, MeasurementOrder, form_path, measure_in_child
from models.store import dump_toml
from models.store_reader import check_in_store, load_model
from models.timing import cpu_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What is to be quantized, with which rows, and what it must reach."""

    model: str
    version: str
    models_dir: Path
    data: Path
    labels: str | None
    # Dynamic or static; None tries what fits.
    approach: str | None
    limits: Limits
    threads: int
    timeout_s: float
    # What the int8 version is called; None: as the version, with `-quantized`.
    target: str | None = None


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, how it was judged, and on which CPU."""

    measurement: Measurement
    judged: tuple[Judged, ...]
    limits: Limits
    cpu: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A report, and the version that was published; None if no form passed the gate."""

    report: QuantizationReport
    published: Published | None


def quantize_version(quantization: Quantization, *, say: Callable[[str], object]) -> Quantized:
    """Make and measure int8 forms of a version, and publish the fastest that passes the gate.

    Raises:
        InvalidNameError: no topic could be called so.
        UnknownModelError: the store has no such version.
        ConfigurationError: there is nothing to quantize, the rows do not fit, or the store cannot take the version.
    """
    name = quantization.target or f"{quantization.version}-quantized"
    check_version_name(name)
    check_in_store(quantization.models_dir, quantization.model, quantization.version)
    source = load_model(quantization.models_dir / quantization.model).version(quantization.version)
    check_free(quantization.models_dir, model=quantization.model, version=name)
    if source.quantization != "none":
        raise ConfigurationError(
            f"{source.model} {source.version} is quantized already ({source.quantization}). Quantize the float32 "
            "version that it was made of."
        )
    if not quantization.data.is_file():
        raise ConfigurationError(f"--data: there is no file {str(quantization.data)!r}")
    with preparation(quantization.models_dir) as scratch:
        say("quantizing and measuring")
        report = _measured(quantization, scratch)
        chosen = best(report.judged)
        if chosen is None:
            return Quantized(report=report, published=None)
        folder = form_path(scratch, chosen.measured.method).parent
        _describe(folder, source, report, chosen)
        published = publish(folder, quantization.models_dir, model=quantization.model, version=name)
    return Quantized(report=report, published=published)


def _measured(quantization: Quantization, scratch: Path) -> QuantizationReport:
    order = MeasurementOrder(
        models_dir=str(quantization.models_dir.resolve()),
        model=quantization.model,
        version=quantization.version,
        data=str(quantization.data.resolve()),
        labels=quantization.labels,
        approach=quantization.approach,
        threads=quantization.threads,
        target=str(scratch),
    )
    measurement = measure_in_child(order, scratch=scratch, timeout_s=quantization.timeout_s)
    return QuantizationReport(
        measurement=measurement,
        judged=judge(measurement.source, measurement.forms, quantization.limits),
        limits=quantization.limits,
        cpu=cpu_name(),
        threads=quantization.threads,
    )


def _describe(folder: Path, source: ModelVersion, report: QuantizationReport, chosen: Judged) -> None:
    """Write what belongs to a version beside its model: everything that its float32 version has, but its weights."""
    weights = {"model.onnx", *read_artifact(source.path).external}
    for path in source.path.parent.iterdir():
        if path.is_file() and path.name not in {*weights, "version.toml", "report.json"}:
            shutil.copyfile(path, folder / path.name)
    text = (source.path.parent / "version.toml").read_text(encoding="utf-8-sig")
    artifact = read_artifact(folder / "model.onnx", source.files)
    (folder / "version.toml").write_text(_version_toml(tomllib.loads(text), source, artifact, report, chosen), "utf-8")
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _version_toml(
    about: dict[str, Any], source: ModelVersion, artifact: Artifact, report: QuantizationReport, chosen: Judged
) -> str:
    """The text of the source's version.toml with the files, the method and the measurements of its int8 form."""
    form = chosen.measured
    tables = {name: value for name, value in about.items() if isinstance(value, dict)}
    lists = {name: value for name, value in about.items() if value and isinstance(value, list) and _is_table(value[0])}
    values = {name: value for name, value in about.items() if name not in {*tables, *lists}}
    values |= {"digest": artifact.digest, "size_bytes": artifact.size_bytes, "quantization": form.method}
    if form.rows_alone:
        values["rows_alone"] = True
    tables["metrics"] = _metrics(form)
    tables["quantized"] = _comparison(source, report, chosen)
    return dump_toml(values, tables=tables, lists=lists)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _metrics(form: MeasuredForm) -> dict[str, float]:
    known = {} if form.accuracy is None else {"held_out_accuracy": round(form.accuracy, 4)}
    return known | {f"batch{rows}_latency_us": value for rows, value in form.latency_us.items()}


def _comparison(source: ModelVersion, report: QuantizationReport, chosen: Judged) -> dict[str, float | str]:
    form, float32 = chosen.measured, report.measurement.source
    change = {} if form.accuracy is None else {"accuracy_change": round(form.accuracy - (float32.accuracy or 0.0), 4)}
    return {
        "from_version": source.version,
        "from_digest": source.digest,
        "size_ratio": round(float32.size_bytes / form.size_bytes, 4),
        **{f"batch{rows}_speedup": round(value, 4) for rows, value in speedups(float32, form).items()},
        **change,
        "top1_agreement": round(form.agreement, 4),
        "held_out_rows": report.measurement.held_out_rows,
        "cpu": report.cpu,
    }
