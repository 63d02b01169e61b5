"""Read binary tensors of many bodies with one JSON part at once: only their numbers differ."""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Signature, TensorSpec, are_finite
from inferlane.contracts.wire.v2_fields import Absent, InputEntry, InputParameters

_NUMBERS = frozenset("fiub")


class _Place(msgspec.Struct, frozen=True):
    """Where the numbers of one input begin and end in a body."""

    spec: TensorSpec
    start: int
    end: int


class TensorLayout(msgspec.Struct, frozen=True):
    """The inputs of a body, which fit a signature: how many rows they have, and where their numbers are."""

    rows: int
    size_bytes: int
    places: tuple[_Place, ...]

    @classmethod
    def of(cls, entries: Sequence[InputEntry], signature: Signature) -> Self | None:
        """Return the layout of these inputs, or None where their numbers must be converted, checked or refused."""
        specs = {spec.name: spec for spec in signature.inputs}
        if signature.has_free_axes or len(entries) != len(specs) or not entries:
            return None
        places: list[_Place] = []
        rows, start = entries[0].shape[0], 0
        for entry in entries:
            spec = specs.pop(entry.name, None)
            if spec is None or not _is_plain(entry, spec) or entry.shape[0] != rows:
                return None
            end = start + math.prod(entry.shape) * spec.dtype.itemsize
            if entry.parameters != InputParameters(binary_data_size=end - start):
                return None
            places.append(_Place(spec, start, end))
            start = end
        return cls(rows, start, tuple(places)) if rows else None

    def read(self, bodies: Sequence[bytes]) -> list[dict[str, np.ndarray]] | None:
        """Return the tensors of each body, views of one array for each input.

        None if a number is not finite where it must be. Each body has `size_bytes`.
        """
        columns: list[tuple[str, np.ndarray]] = []
        for place in self.places:
            spec = place.spec
            parts = bodies if len(self.places) == 1 else [body[place.start : place.end] for body in bodies]
            column = np.frombuffer(b"".join(parts), spec.dtype).reshape(-1, *spec.row_shape)
            if not spec.allow_nan and column.dtype.kind == "f" and not are_finite(column):
                return None
            columns.append((spec.name, column))
        starts = range(0, self.rows * len(bodies), self.rows)
        return [{name: column[start : start + self.rows] for name, column in columns} for start in starts]


def _is_plain(entry: InputEntry, spec: TensorSpec) -> bool:
    """Whether an input comes as bytes of the numbers and the row shape that the signature has."""
    return (
        isinstance(entry.data, Absent)
        and entry.datatype == spec.datatype
        and spec.dtype.kind in _NUMBERS
        and tuple(entry.shape[1:]) == spec.row_shape
    )
