"""Token ids in place of the text of a row, for clients that have tokenized it themselves.

Such a row is still a text: a control character that no text begins with, and the ids in decimal. So it fits every
format that text does, and only the step that tokenizes need know.
"""

from collections.abc import Sequence

from inferlane.errors import InvalidInputError, quoted

TOKEN_COUNT = "tokens"  # noqa: S105 - of text
"""The output with the number of tokens of each row, of versions that count them."""

_MARK = "\x1ftokens "
# More digits than any vocabulary has.
_MAX_DIGITS = 9


def text_of(tokens: Sequence[int]) -> str:
    """The text that stands for these ids."""
    return _MARK + " ".join(map(str, tokens))


def tokens_of(text: str) -> list[int] | None:
    """The ids that a text stands for; None if it is a text like any other.

    Raises:
        InvalidInputError: it begins like one that stands for ids, and does not go on like it.
    """
    if not text.startswith(_MARK):
        return None
    words = text[len(_MARK) :].split(" ")
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS):
            raise InvalidInputError(f"the tokens of a row are whole numbers, and one of them is {quoted(word)}")
    return list(map(int, words))
