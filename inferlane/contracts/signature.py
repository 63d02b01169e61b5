"""What a model version takes and gives: named tensors with a datatype and a shape."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output: its name, Open Inference Protocol datatype and shape, -1 for the row axis.

    `allow_nan` says that NaN and infinity are values of this input, such as a tree ensemble's missing value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    allow_nan: bool = False

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: everything after the row axis."""
        return self.shape[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The inputs and outputs of a version."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def input(self, name: str) -> TensorSpec | None:
        """The input of that name, None if there is none."""
        return next((spec for spec in self.inputs if spec.name == name), None)
