"""What a model version takes and gives: named tensors with a datatype and a shape."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output: its name, Open Inference Protocol datatype and shape, -1 for the row axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: everything after the row axis."""
        return self.shape[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The inputs and outputs of a version."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
