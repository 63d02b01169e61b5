"""What a message repeats of what somebody sent is short, printable and can be encoded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.errors import MESSAGE_LIMIT_CHARS, InferlaneError, clipped, quoted

ANYTHING = (
    st.text()
    | st.binary()
    | st.integers()
    | st.floats()
    | st.none()
    | st.booleans()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.integers())
)


@given(ANYTHING)
def test_a_quoted_value_is_short_printable_and_can_be_encoded(value: object) -> None:
    text = quoted(value)
    assert len(text) <= 200
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x" * 7_000_000, "7000000 characters"),
        (b"x" * 7_000_000, "7000000 bytes"),
        ("\ud800" * 1_000, "1000 characters"),
        ("\x1b[2J" * 1_000, "4000 characters"),
        (10**3_000, "digits"),
        ("short", "'short'"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ([1] * 1_000_000, "a list"),
        ({"a": 1}, "an object"),
    ],
    ids=[str(number) for number in range(11)],
)
def test_a_long_value_is_cut_and_says_how_long_it_was(value: object, says: str) -> None:
    assert says in quoted(value)
    assert len(quoted(value)) <= 200


def test_text_of_others_is_clipped_and_can_be_encoded() -> None:
    assert clipped("as it is") == "as it is"
    assert clipped("x" * 10_000, limit_chars=10) == "x" * 10 + "… (10000 characters)"
    clipped("\udfff").encode()


def test_no_error_of_ours_has_a_message_of_any_length_or_one_that_cannot_be_encoded() -> None:
    """The bound for a message that quotes without `quoted`."""
    message = str(InferlaneError("\ud800" + "name" * 1_000_000))
    assert len(message) <= MESSAGE_LIMIT_CHARS + 100
    message.encode()
