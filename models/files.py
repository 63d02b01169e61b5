"""The files of a store: where its models and versions lie, and what `model.toml` and `version.toml` must hold."""

import math
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from inferlane.contracts.naming import is_model_name
from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, DecodeError
from models.artifact import takes_nan
from models.execution import ON_CPU, Execution, check_execution
from models.steps.declared_steps import AfterStep, BeforeStep, Steps
from models.steps.tokenizer_step import TokenizerStep

T = TypeVar("T")
_SHOWN_CHARS = 500
# Far more than anybody writes by hand. Every process reads these files at its start, at a megabyte a second.
_MAX_FILE_BYTES = 256 * 1024
# Of one row: more than any request can hold, and few enough to make room for before anything is read.
_MAX_ROW_VALUES = 2**26
# A JSON number that every client reads as it was written.
_LARGEST_EXACT = 2**53


class ModelFile(msgspec.Struct, frozen=True):
    """`model.toml`."""

    default_version: str
    description: str = ""
    classes: tuple[str, ...] = ()


class _Tensor(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    datatype: str
    shape: tuple[int, ...]
    # Of an output: what the columns of its scores, or its whole numbers, are called.
    classes: tuple[str, ...] = ()
    # Of inputs; where it is absent, the graph says it.
    allow_nan: bool | None = None
    # Of inputs with a free axis, as `TensorSpec` has them. Hugging Face's names say it where they are absent.
    pad: float | str | None = None
    mask_of: str | None = None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="table"):
    """The names of columns, as `[[columns]]` has them: they are read before a row is sent, not by the worker."""

    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1)]


class VersionFile(msgspec.Struct, frozen=True):
    """`version.toml`; `metrics` and `quantized` are whatever somebody wrote there."""

    digest: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    quantization: str
    inputs: Annotated[tuple[_Tensor, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[_Tensor, ...], msgspec.Meta(min_length=1)]
    # False of a graph that takes a single row and has no axis for rows: the shapes are those of a row then.
    row_axis: bool = True
    # True of a graph whose answer to a row depends on the rows beside it: a worker runs each row by itself then.
    rows_alone: bool = False
    columns: tuple[Column, ...] = ()
    runtime: Execution = ON_CPU
    before: tuple[BeforeStep | _Table, ...] = ()
    after: tuple[AfterStep, ...] = ()
    # The files beside the model that digest and size cover too; those that a step reads need not be named.
    files: tuple[str, ...] = ()
    metrics: Any = None
    quantized: Any = None

    @property
    def label_classes(self) -> tuple[str, ...]:
        """What the whole number that this version answers a row with stands for; empty if it does not say."""
        labels = (
            output.classes for output in self.outputs if output.datatype.startswith("INT") and len(output.shape) == 1
        )
        return next(labels, ())


def model_folders(models_dir: Path) -> list[Path]:
    """The folders that hold a model, or that nobody can look into although they are called as one.

    Raises:
        ConfigurationError: the store itself cannot be read.
    """
    try:
        return [folder for folder in _visible(models_dir) if _is_model(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(f"cannot read the models folder (INFERLANE_MODELS_DIR): {error}") from error


def version_folders(folder: Path) -> list[Path]:
    """The folders of a model that hold a version, or that nobody can look into.

    Raises:
        OSError: the model's folder cannot be read.
    """
    return [path for path in _visible(folder) if _is_version(path)]


def _visible(folder: Path) -> list[Path]:
    # What begins with a dot is a version that is being written, or nobody's.
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "model.toml").exists() or any((path / "version.toml").exists() for path in _visible(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # Whoever reads it says why; but `lost+found` is no model.
        return is_model_name(folder.name)


def _is_version(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in ("version.toml", "model.onnx"))
    except OSError:
        # Whoever reads it says why.
        return True


def read_model_file(folder: Path) -> ModelFile:
    """Read `model.toml` of a model's folder.

    Raises:
        ConfigurationError: it cannot be read, or does not hold what it must; the message names file and field.
    """
    return _read(folder / "model.toml", ModelFile)


def read_version_file(folder: Path) -> tuple[VersionFile, Signature]:
    """Read `version.toml` of a version's folder: what it says, and the signature of the graph.

    Raises:
        ConfigurationError: it cannot be read, or does not hold what it must; the message names file and field.
    """
    entry = _read(folder / "version.toml", VersionFile)
    return entry, described_signature(entry, folder)


def described_signature(entry: VersionFile, folder: Path) -> Signature:
    """The signature of the graph that `entry` describes, with the names of its columns.

    Raises:
        ConfigurationError: it is none that can be served.
    """
    path = folder / "version.toml"
    specs = _specs(path, "inputs", entry.inputs)
    signature = Signature.of_graph(
        inputs=_nan_allowed(specs, entry.inputs, folder / "model.onnx"),
        outputs=_specs(path, "outputs", entry.outputs),
        has_row_axis=entry.row_axis,
    )
    if signature.has_free_axes:
        signature = replace(signature, inputs=tuple(map(_padded, signature.inputs, entry.inputs, repeat(entry.inputs))))
    if columns := _columns(path, entry):
        signature = replace(signature, inputs=(_named(path, signature.inputs, columns),))
    check_execution(f"{path}: [runtime]", entry.runtime)
    for spec in signature.inputs:
        _check_shape(f"{path}: {spec.name!r} of [[inputs]]", spec)
    return signature


def _columns(path: Path, entry: VersionFile) -> tuple[Column, ...]:
    tables = [entry.columns, *(step.columns for step in entry.before if isinstance(step, _Table))]
    named = [columns for columns in tables if columns]
    if len(named) > 1:
        raise ConfigurationError(f"{path}: the columns are named twice; keep [[columns]], or one step of kind 'table'")
    return named[0] if named else ()


def described_steps(entry: VersionFile, graph: Signature) -> Steps | None:
    """The steps around the graph, which has that signature; None if there are none.

    Raises:
        ConfigurationError: they do not fit the graph, or one another.
    """
    before = tuple(step for step in entry.before if not isinstance(step, _Table))
    if sum(isinstance(step, TokenizerStep) for step in before) > 1:
        raise ConfigurationError("[[before]] has two steps of kind 'tokenizer'; one text a row is tokenized")
    return Steps(graph=graph, before=before, after=entry.after) if before or entry.after else None


def _nan_allowed(specs: tuple[TensorSpec, ...], entries: tuple[_Tensor, ...], onnx: Path) -> tuple[TensorSpec, ...]:
    """The inputs with `allow_nan`. The graph is read at most once, and only if version.toml leaves it open."""
    floats = [spec.datatype.startswith("FP") for spec in specs]
    is_open = any(is_float and entry.allow_nan is None for is_float, entry in zip(floats, entries, strict=True))
    of_graph = is_open and takes_nan(onnx)
    return tuple(
        replace(spec, allow_nan=of_graph if entry.allow_nan is None else entry.allow_nan) if is_float else spec
        for spec, entry, is_float in zip(specs, entries, floats, strict=True)
    )


# What tokenizers fill up with where exporters of Hugging Face's models named the inputs: any token that is masked.
_MASK, _TOKENS, _ZERO_PADDED = "attention_mask", "input_ids", frozenset({"input_ids", "token_type_ids"})


def _padded(spec: TensorSpec, entry: _Tensor, entries: tuple[_Tensor, ...]) -> TensorSpec:
    is_masked = {other.name for other in entries} >= {_MASK, _TOKENS}
    mask_of = entry.mask_of or (_TOKENS if spec.name == _MASK and is_masked else None)
    pad = 0 if entry.pad is None and (mask_of or (is_masked and spec.name in _ZERO_PADDED)) else entry.pad
    return replace(spec, pad=pad, mask_of=mask_of)


def _named(path: Path, inputs: tuple[TensorSpec, ...], columns: tuple[Column, ...]) -> TensorSpec:
    names = [column.name for column in columns]
    if len(inputs) != 1 or inputs[0].row_shape != (len(columns),) or inputs[0].kind not in {"FP", "INT"}:
        raise ConfigurationError(
            f"{path}: [[columns]] names {len(columns)} columns; it must name each column of a single input of numbers, "
            f"and the inputs are {', '.join(f'{spec.name} {spec.datatype} {list(spec.shape)}' for spec in inputs)}"
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{path}: [[columns]] names a column twice: {', '.join(names)}")
    for column in columns:
        is_known = column.default in column.categories if column.categories else not isinstance(column.default, str)
        if column.default is not None and not is_known:
            raise ConfigurationError(
                f"{path}: the default of the column {column.name!r} is {column.default!r}, which is none of its "
                "categories, or text where it has none"
            )
    return replace(inputs[0], columns=columns)


def shown_values(table: Any) -> Mapping[str, float | str]:
    """The values of a free table as JSON has them: finite numbers and text as they are, all else as text.

    What somebody noted beside a model (a date, NaN, a table) must never keep the model, or a list of models, from
    being read.
    """
    entries = table if isinstance(table, Mapping) else {} if table is None else {"value": table}
    return {str(key)[:_SHOWN_CHARS]: _shown(value) for key, value in entries.items()}


def _shown(value: Any) -> float | str:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_EXACT:
        return value
    return (value if isinstance(value, str) else str(value))[:_SHOWN_CHARS]


def _specs(path: Path, field: str, tensors: tuple[_Tensor, ...]) -> tuple[TensorSpec, ...]:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{path}: [[{field}]] names a tensor twice: {', '.join(names)}")
    for tensor in tensors:
        where = f"{path}: {tensor.name!r} of [[{field}]]"
        try:
            numpy_dtype(tensor.datatype)
        except DecodeError as error:
            raise ConfigurationError(f"{where}: {error}") from error
    return tuple(TensorSpec(name=entry.name, datatype=entry.datatype, shape=entry.shape) for entry in tensors)


def _check_shape(where: str, spec: TensorSpec) -> None:
    if spec.shape[:1] != (-1,):
        raise ConfigurationError(
            f"{where}: rows of different clients go into one run, but version.toml says {list(spec.shape)}, whose "
            "first axis is neither free nor the same number in every input and output. Export the model with a "
            "dynamic first axis, and write -1 for it; or write `row_axis = false` at the top if it takes a single row "
            "and has no axis for rows."
        )
    if any(axis < 1 and axis != -1 for axis in spec.row_shape):
        raise ConfigurationError(
            f"{where} has the shape {list(spec.shape)}; every axis after the first must be -1 or a fixed size over 0. "
            "Export the model with such axes."
        )
    if math.prod(map(abs, spec.row_shape)) > _MAX_ROW_VALUES:
        raise ConfigurationError(
            f"{where} has the shape {list(spec.shape)}; a row has at most {_MAX_ROW_VALUES} values. Correct it, "
            "or export a model that takes smaller rows."
        )


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.convert(tomllib.loads(_text(path)), kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: missing or malformed: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _text(path: Path) -> str:
    """The file, as far as it is one: a pipe would hold the process for ever, a device would fill its memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, no file, or too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes, which is the limit; keep notes in another file")
    return raw.decode("utf-8-sig")
