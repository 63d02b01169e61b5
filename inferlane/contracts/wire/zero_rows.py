"""The smallest request for a signature: one row of zeros, by which a version shows that it answers."""

from functools import reduce
from typing import Any

import msgspec

from inferlane.contracts.wire.row_texts import SMALLEST_IMAGE
from inferlane.contracts.wire.tensors import Signature, TensorSpec


def one_row_body(signature: Signature, *, text: str = "") -> bytes:
    """A request for one row of zeros, in V1 form."""
    return msgspec.json.encode({"instances": [zero_row(signature, text=text)]})


def zero_row(signature: Signature, *, text: str = "") -> Any:
    """Return one instance of zeros (false, the smallest image, `text`) in V1 form.

    It is bare for one input, and by name for several.
    """
    rows = {spec.name: _zeros(spec, text) for spec in signature.inputs}
    return next(iter(rows.values())) if len(rows) == 1 else rows


def _zeros(spec: TensorSpec, text: str) -> Any:
    # A mask is one of ones, for no row is all fill.
    number = int(spec.mask_of is not None)
    zero: object = {"BYTES": SMALLEST_IMAGE if spec.is_binary else text, "BOOL": bool(number)}.get(
        spec.datatype, float(number) if spec.datatype.startswith("FP") else number
    )
    # A free axis is given one element.
    return reduce(lambda inner, size: [inner] * max(size, 1), reversed(spec.row_shape), zero)
