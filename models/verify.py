"""Check that a version on disk is what its version.toml says, and that it answers."""

from typing import Any

import numpy as np
import onnxruntime

from inferlane.errors import ConfigurationError, DecodeError
from inferlane.signature import Signature, TensorSpec
from inferlane.wire.tensors import numpy_dtype
from models.catalog import ModelVersion
from models.store import digest_of

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
}


def verify_version(version: ModelVersion) -> None:
    """Check the digest, the size, that the model loads with the signature it claims, and that a zero row is finite.

    Raises:
        ConfigurationError: one of these does not hold; the message names the file, what it says and what was found.
    """
    _verify_file(version)
    session = _load(version)
    found = signature_of(session)
    if found != version.signature:
        raise ConfigurationError(
            f"{version.path}: the model has {_describe(found)}, but version.toml says {_describe(version.signature)}. "
            "Correct [[inputs]] and [[outputs]]."
        )
    _verify_zero_row(version, session)


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


def _verify_file(version: ModelVersion) -> None:
    remedy = "Restore the file, or build it again (samples: `inferlane models build-samples --force`)."
    size_bytes = version.path.stat().st_size
    if size_bytes != version.size_bytes:
        raise ConfigurationError(
            f"{version.path}: {size_bytes} bytes, but version.toml says {version.size_bytes}. {remedy}"
        )
    digest = digest_of(version.path)
    if digest != version.digest:
        raise ConfigurationError(f"{version.path}: {digest}, but version.toml says {version.digest}. {remedy}")


def _load(version: ModelVersion) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(version.path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises pybind types of its own with no common base
        raise ConfigurationError(f"{version.path}: onnxruntime cannot load it: {error}") from error


def _verify_zero_row(version: ModelVersion, session: onnxruntime.InferenceSession) -> None:
    try:
        row = {
            spec.name: np.zeros((1, *(abs(axis) for axis in spec.row_shape)), dtype=numpy_dtype(spec.datatype))
            for spec in version.signature.inputs
        }
    except DecodeError as error:
        raise ConfigurationError(f"{version.path}: {error}") from error
    try:
        outputs = session.run(None, row)
    except Exception as error:  # as above
        raise ConfigurationError(f"{version.path}: a row of zeros fails: {error}") from error
    for spec, output in zip(version.signature.outputs, outputs, strict=True):
        if np.shape(output)[:1] != (1,) or not np.all(np.isfinite(output)):
            raise ConfigurationError(
                f"{version.path}: a row of zeros gives {spec.name} = {output!r}; it must be one row of finite numbers."
            )


def _describe(signature: Signature) -> str:
    def line(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)

    return f"{line(signature.inputs)} -> {line(signature.outputs)}"
