"""The signature that a loaded ONNX model has."""

from typing import TYPE_CHECKING, Any

from inferlane.contracts.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

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


def signature_of(session: "onnxruntime.InferenceSession") -> Signature:
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
    """A signature in one line, for a message."""

    def line(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)

    return f"{line(signature.inputs)} -> {line(signature.outputs)}"
