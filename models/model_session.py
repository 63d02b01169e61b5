"""A model in onnxruntime: how it is loaded, and the signature that it has there."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from models.execution import (
    ON_CPU,
    Execution,
    check_in_use,
    check_installed,
    provider_options,
    session_config,
)

_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def open_session(
    model: bytes | Path,
    external: Mapping[str, bytes] = _NO_FILES,
    *,
    threads: int = 1,
    execution: Execution = ON_CPU,
    signature: Signature | None = None,
) -> onnxruntime.InferenceSession:
    """Load a model as a worker does, on the providers of `execution` and nowhere else.

    `external` is what `model` keeps in files beside it, by the names that it has for them. onnxruntime uses these bytes
    without keeping a reference to them: they must live as long as the session.

    Raises:
        ConfigurationError: a provider is not installed, or cannot be started.
        Exception: it cannot be loaded; onnxruntime raises pybind types of its own with no common base.
    """
    check_installed(execution, onnxruntime.get_available_providers())
    if execution.on_gpu:
        # CUDA and cuDNN of the packages that come with onnxruntime-gpu, where no system has them.
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread responds sooner but occupies a core that other processes need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if external:
        options.add_external_initializers_from_files_in_memory(
            list(external), list(external.values()), list(map(len, external.values()))
        )
    for key, value in session_config(execution).items():
        options.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, Path) else model
    # Without `enable_fallback` a provider that fails is an error, and the session is not made again on the CPU.
    session = onnxruntime.InferenceSession(
        source, sess_options=options, providers=provider_options(execution, signature), enable_fallback=0
    )
    check_in_use(execution, session.get_providers())
    return session


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
                axes=tuple(axis if isinstance(axis, str) else "" for axis in argument.shape),
            )
            for argument in arguments
        )

    return Signature(inputs=specs(session.get_inputs()), outputs=specs(session.get_outputs()))


def describe(signature: Signature) -> str:
    """A signature in one line, with the shapes of the graph, for a message."""

    def line(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.datatype} {list(signature.graph_shape(spec))}" for spec in specs)

    return f"{line(signature.inputs)} -> {line(signature.outputs)}"
