"""Inputs of raw bytes, such as the file of an image: bytes in binary tensors and records, base64 in JSON."""

import base64
import binascii

import numpy as np

from inferlane.errors import InvalidInputError, quoted

# A PNG file of one white pixel.
SMALLEST_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="


def from_base64(texts: np.ndarray, where: str) -> np.ndarray:
    """Return an array of `bytes` in place of an array of base64.

    Raises:
        InvalidInputError: a text is not base64; the message names its row after `where`.
    """
    values = np.empty(texts.shape, object)
    for index, text in enumerate(texts.ravel()):
        try:
            values.ravel()[index] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            place = np.unravel_index(index, texts.shape)[0]
            raise InvalidInputError(
                f"{where}[{place}] holds {quoted(text)}, which is not base64 ({error}); send the bytes of the file in "
                "base64, or raw in a binary tensor"
            ) from error
    return values
