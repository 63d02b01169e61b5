"""Texts that stand for something else in a row: token ids, and the bytes of a file.

A client that has tokenized a text itself still sends a text: a control character that no other text begins with,
then the ids in decimal. It fits every format that text fits, and only the tokenizing step needs to know. Inputs of
raw bytes, such as an image file, are bytes in binary tensors and records, and base64 in JSON.
"""

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from inferlane.errors import InvalidInputError, quoted

TOKEN_COUNT = "tokens"  # noqa: S105 - of text
"""The output with the number of tokens of each row, of versions that count them."""

_MARK = "\x1ftokens "
# More digits than the ids of any vocabulary have.
_MAX_DIGITS = 9


def text_of(tokens: Sequence[int]) -> str:
    """Return the text that stands for these ids."""
    return _MARK + " ".join(map(str, tokens))


def tokens_of(text: str) -> list[int] | None:
    """Return the ids that a text stands for; None if it is a text like any other.

    Raises:
        InvalidInputError: the text begins like one that stands for ids, but the rest is malformed.
    """
    if not text.startswith(_MARK):
        return None
    words = text[len(_MARK) :].split(" ")
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS):
            raise InvalidInputError(f"the tokens of a row are whole numbers, and one of them is {quoted(word)}")
    return list(map(int, words))


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
