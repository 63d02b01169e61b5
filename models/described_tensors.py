"""The tensors that a version.toml describes: signature, named columns, padding, and steps around the graph."""

import math
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, DecodeError
from models.artifact import takes_nan
from models.execution import check_execution
from models.files import TableStep, TensorEntry, VersionFile, read_toml
from models.steps.declared_steps import Steps
from models.steps.tokenizer_step import TokenizerStep

# Of one row: more than any request can hold, and few enough to make room for before anything is read.
_MAX_ROW_VALUES = 2**26


def read_version_file(folder: Path) -> tuple[VersionFile, Signature]:
    """Read `version.toml` of a version's folder: what it says, and the signature of the graph.

    Raises:
        ConfigurationError: it cannot be read, or does not hold what it must; the message names file and field.
    """
    entry = read_toml(folder / "version.toml", VersionFile)
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
    tables = [entry.columns, *(step.columns for step in entry.before if isinstance(step, TableStep))]
    named = [columns for columns in tables if columns]
    if len(named) > 1:
        raise ConfigurationError(f"{path}: the columns are named twice; keep [[columns]], or one step of kind 'table'")
    return named[0] if named else ()


def described_steps(entry: VersionFile, graph: Signature) -> Steps | None:
    """The steps around the graph, which has that signature; None if there are none.

    Raises:
        ConfigurationError: they do not fit the graph, or one another.
    """
    before = tuple(step for step in entry.before if not isinstance(step, TableStep))
    if sum(isinstance(step, TokenizerStep) for step in before) > 1:
        raise ConfigurationError("[[before]] has two steps of kind 'tokenizer'; one text a row is tokenized")
    return Steps(graph=graph, before=before, after=entry.after) if before or entry.after else None


def _nan_allowed(specs: tuple[TensorSpec, ...], entries: tuple[TensorEntry, ...], onnx: Path) -> tuple[TensorSpec, ...]:
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


def _padded(spec: TensorSpec, entry: TensorEntry, entries: tuple[TensorEntry, ...]) -> TensorSpec:
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


def _specs(path: Path, field: str, tensors: tuple[TensorEntry, ...]) -> tuple[TensorSpec, ...]:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{path}: [[{field}]] names a tensor twice: {', '.join(names)}")
    for tensor in tensors:
        where = f"{path}: {tensor.name!r} of [[{field}]]"
        try:
            numpy_dtype(tensor.datatype)
        except DecodeError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        if tensor.axes and len(tensor.axes) != len(tensor.shape):
            raise ConfigurationError(
                f"{where} has {len(tensor.shape)} axes, and `axes` names {len(tensor.axes)}. Name each, or none"
            )
    return tuple(
        TensorSpec(name=entry.name, datatype=entry.datatype, shape=entry.shape, axes=entry.axes) for entry in tensors
    )


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
