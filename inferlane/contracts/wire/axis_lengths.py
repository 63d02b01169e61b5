"""The lengths of free axes: those of inputs that belong together must be equal in each row."""

from collections.abc import Mapping

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import InvalidInputError, quoted


def check_lengths(shapes: Mapping[str, tuple[int, ...]], signature: Signature, where: str) -> None:
    """Return if rows of these shapes fit together: masks to what they mask, and axes with one name to each other.

    `shapes` are those of rows, without the row axis, by the names of inputs.

    Raises:
        InvalidInputError: two lengths differ; the message names both inputs.
    """
    seen: dict[str, tuple[TensorSpec, int]] = {}
    for spec in signature.inputs:
        shape = shapes[spec.name]
        if spec.mask_of is not None and spec.mask_of in shapes:
            _check_mask(shape, shapes[spec.mask_of], spec, where)
        for name, axis, length in zip(spec.axes[1:], spec.row_shape, shape, strict=False):
            if axis != -1 or not name:
                continue
            other, wanted = seen.setdefault(name, (spec, length))
            if length != wanted:
                raise InvalidInputError(
                    f"{where}: {quoted(spec.name)} has the length {length} on its axis {quoted(name)}, and "
                    f"{quoted(other.name)} has {wanted}; the model wants one length there. Send both equally long"
                )


def _check_mask(mask: tuple[int, ...], masked: tuple[int, ...], spec: TensorSpec, where: str) -> None:
    if mask != masked[: len(mask)]:
        raise InvalidInputError(
            f"{where}: {spec.name!r} has the shape {list(mask)}, and {spec.mask_of!r}, whose mask it is, "
            f"{list(masked)}. Send a mask of the same lengths, or leave it out: then no value is fill"
        )
