"""Tensors against a signature."""

from collections.abc import Mapping

import numpy as np

from inferlane.contracts.signature import Signature, TensorSpec
from inferlane.contracts.wire.tensors import numpy_dtype
from inferlane.errors import InvalidInputError
from inferlane.quoting import clipped, quoted


def check_tensors(tensors: Mapping[str, np.ndarray], signature: Signature) -> int:
    """Return the number of rows of tensors that fit the signature.

    Raises:
        InvalidInputError: a tensor is missing, unknown, of another datatype or shape, empty, or not finite.
    """
    specs = signature.inputs
    if len(tensors) != len(specs):
        unknown = sorted(set(tensors) - {spec.name for spec in specs})
        if unknown:
            raise InvalidInputError(f"no input is called {quoted(unknown[0])}; the inputs are: {_names(specs)}")
    rows = None
    for spec in specs:
        array = tensors.get(spec.name)
        if array is None:
            raise InvalidInputError(f"input {spec.name!r} is missing; the inputs are: {_names(specs)}")
        _check_tensor(array, spec)
        if rows is not None and len(array) != rows:
            raise InvalidInputError(f"input {spec.name!r} has {len(array)} rows, the one before it has {rows}")
        rows = len(array)
    if not rows:
        raise InvalidInputError("the request has no rows; send at least one")
    return rows


def _check_tensor(array: np.ndarray, spec: TensorSpec) -> None:
    if array.dtype != numpy_dtype(spec.datatype):
        raise InvalidInputError(f"input {spec.name!r} must be {spec.datatype}, not {array.dtype}")
    if array.shape[1:] != spec.row_shape:
        raise InvalidInputError(
            f"input {spec.name!r} has shape {clipped(str(list(array.shape)))}; "
            f"it must be [rows, {str(list(spec.row_shape))[1:]}"
        )
    # A finite sum of squares proves that every element is finite, in one pass and with no temporary.
    if array.dtype.kind == "f" and not np.isfinite(np.vdot(array, array)):
        _refuse_not_finite(array, spec)


def _refuse_not_finite(array: np.ndarray, spec: TensorSpec) -> None:
    are_finite = np.isfinite(array)
    if are_finite.all():
        return
    first = np.unravel_index(int(are_finite.argmin()), array.shape)
    place = "".join(f"[{index}]" for index in first)
    raise InvalidInputError(f"input {spec.name!r}{place} is {array[first]}; send finite numbers")


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
