"""A model in onnxruntime: how it is loaded, and the signature that it has there."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime

from inferlane.contracts.wire.tensors import Signature, TensorSpec

_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def open_session(
    model: bytes | Path, external: Mapping[str, bytes] = _NO_FILES, *, threads: int = 1
) -> onnxruntime.InferenceSession:
    """Load a model on the CPU, as a worker does.

    `external` is what `model` keeps in files beside it, by the names that it has for them. onnxruntime uses these bytes
    without keeping a reference to them: they must live as long as the session.

    Raises:
        Exception: it cannot be loaded; onnxruntime raises pybind types of its own with no common base.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread responds sooner but occupies a core that other processes need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if external:
        options.add_external_initializers_from_files_in_memory(
            list(external), list(external.values()), list(map(len, external.values()))
        )
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])


_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def signature_of(session: onnxruntime.InferenceSession) -> Signature:
    """The signature of a loaded model, with -1 for each dynamic axis.

    A type that is no tensor keeps onnxruntime's name, so it equals nothing that a version.toml may say.
    """

    def specs(arguments: list[Any]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=argument.name,
                datatype=_DATATYPES.get(argument.type, argument.type),
                shape=tuple(axis if isinstance(axis, int) else -1 for axis in argument.shape),
            )
            for argument in arguments
        )

    return Signature(inputs=specs(session.get_inputs()), outputs=specs(session.get_outputs()))


def describe(signature: Signature) -> str:
    """A signature in one line, with the shapes of the graph, for a message."""

    def line(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.datatype} {list(signature.graph_shape(spec))}" for spec in specs)

    return f"{line(signature.inputs)} -> {line(signature.outputs)}"
