"""What a model file is, read without running it, or why it is refused: files, opsets, inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError as NotAMessageError
from onnx import TensorProto

from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import ConfigurationError, DecodeError, clipped, quoted
from models.adding.graph_surgery import unwrap_outputs
from models.artifact import Artifact, read_artifact

# Of what onnxruntime brings along. Functions that the model itself defines are no custom operators either.
_KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview"})
_DATATYPES: Mapping[int, str] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "BYTES",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A model that may be tried: its files as they go into the store, and what was seen and changed."""

    artifact: Artifact
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    nodes: int
    classes: Mapping[str, tuple[str, ...]]
    # Outputs whose whole numbers are indices of their classes.
    labels: tuple[str, ...]
    changes: tuple[str, ...]


# What the store itself writes into the folder of a version.
_RESERVED = frozenset({"model.onnx", "version.toml", "report.json"})


def inspect(path: Path, *, has_row_axis: bool = True) -> Inspected:
    """Read the ONNX file at `path` with its weights, and unwrap its outputs.

    Raises:
        ConfigurationError: it could not be served; the message says why, and what to do.
    """
    artifact = read_artifact(path)
    try:
        return _inspected(artifact, _parsed(path, artifact), has_row_axis=has_row_axis)
    except ConfigurationError:
        raise
    except Exception as error:  # any field of a spoilt file may hold anything, and each library says so in its own way
        raise _no_model(path, clipped(f"{type(error).__name__}: {error}")) from error


def _inspected(artifact: Artifact, model: onnx.ModelProto, *, has_row_axis: bool) -> Inspected:
    _refuse_custom_operators(model)
    for name in artifact.external:
        # Names by the rules of file systems that do not tell case.
        if str(PurePosixPath(name)).casefold() in _RESERVED or not name.isprintable():
            raise ConfigurationError(
                f"the model keeps weights in the file {quoted(name)}; the store has a file of its own of that name, or "
                "it cannot be printed. Save the weights in a file of another name."
            )
    before = model.SerializeToString(deterministic=True)
    unwrapped = unwrap_outputs(model)
    _check_tensors(model, has_row_axis=has_row_axis)
    after = model.SerializeToString(deterministic=True)
    return Inspected(
        artifact=artifact if before == after else replace(artifact, model=after),
        ir_version=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        nodes=len(model.graph.node),
        classes=unwrapped.classes,
        labels=unwrapped.labels,
        changes=unwrapped.changes,
    )


def _parsed(path: Path, artifact: Artifact) -> onnx.ModelProto:
    model, fault = onnx.ModelProto(), artifact.fault
    if fault is None:
        try:
            model = onnx.load_model_from_string(artifact.model)
            fault = None if model.graph.node or model.graph.output else "it has no graph"
        except NotAMessageError as error:
            fault = str(error)
    if fault is not None:
        raise _no_model(path, fault)
    if not (model.graph.node and model.graph.output):
        lack = "output: it answers nothing" if model.graph.node else "node: it computes nothing"
        raise ConfigurationError(f"the graph of {path} has no {lack}. Export the model with its operators and outputs.")
    return model


def _no_model(path: Path, fault: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is no ONNX model ({fault}): it is something else, or only a part of one. Export it again."
    )


def _refuse_custom_operators(model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    custom = sorted(
        {
            f"{node.domain}:{node.op_type}"
            for node in model.graph.node
            if node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in own
        }
    )
    if custom:
        raise ConfigurationError(
            f"the model has custom operators, which onnxruntime does not bring: {', '.join(custom[:5])}. Export it "
            "with the operators of ONNX alone."
        )


def _check_tensors(model: onnx.ModelProto, *, has_row_axis: bool) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if not inputs:
        raise ConfigurationError("the model has no input: it could only ever give one answer")
    for what, values in (("input", inputs), ("output", model.graph.output)):
        for value in values:
            if not value.name.isprintable():
                # In a terminal they could look like something else, and not every JSON library reads them.
                raise ConfigurationError(
                    f"{what} {quoted(value.name)} has characters in its name that cannot be printed. Rename it."
                )
            kind = value.type.tensor_type
            if value.type.WhichOneof("value") != "tensor_type":
                raise ConfigurationError(
                    f"{what} {quoted(value.name)} is no tensor. Export the model with tensors as {what}s."
                )
            _check_datatype(what, value.name, kind.elem_type)
            if kind.HasField("shape") and has_row_axis:
                _check_shape(what, value.name, kind.shape)


def _check_datatype(what: str, name: str, elem_type: int) -> None:
    datatype = _DATATYPES.get(elem_type) or TensorProto.DataType.Name(elem_type)
    try:
        numpy_dtype(datatype)
    except DecodeError as error:
        raise ConfigurationError(f"{what} {quoted(name)}: {error}. Export the model with another datatype.") from error


def _check_shape(what: str, name: str, shape: onnx.TensorShapeProto) -> None:
    axes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in shape.dim]
    if not axes:
        raise ConfigurationError(
            f"{what} {quoted(name)} is a single value and has no rows. Export the model with a row axis first in every "
            "input and output. If it takes a single row and has no axis for rows, say --no-row-axis."
        )
    if what == "output":
        return
    names = [axis.dim_param for axis in shape.dim]
    if names[0] and names[0] in names[1:]:
        raise ConfigurationError(
            f"{what} {quoted(name)} has the shape {names}: an axis within a row is as long as there are rows, so rows "
            "of different clients could not share a run. Give each of its free axes a name of its own. If it takes a "
            "single row and has no axis for rows, say --no-row-axis."
        )
    if any(axis < 1 and axis != -1 for axis in axes[1:]):
        raise ConfigurationError(
            f"{what} {quoted(name)} has the shape {axes}; every axis after the first must be free or a fixed size "
            "over 0. Export the model with such axes."
        )
