"""A batch that a consumer could not read, in the place of its records."""

from collections.abc import Sequence

from inferlane.errors import DecodeError


class _Mark(str):
    """The name of a header that no producer can write: it is known by its type, not by its characters."""

    __slots__ = ()


_REASON = _Mark("inferlane-dead-letter-unreadable")
_LAST_OFFSET = "inferlane-dead-letter-last-offset"

Headers = Sequence[tuple[str, bytes]]


def unreadable_headers(reason: str, *, last_offset: int) -> tuple[tuple[str, bytes], ...]:
    """The headers of the record that stands for a batch: why it cannot be read, and the offset of its last record."""
    return ((_REASON, reason.encode(errors="replace")), (_LAST_OFFSET, str(last_offset).encode()))


def is_unreadable(headers: Headers) -> bool:
    """Whether these are the headers of a record that stands for a batch which could not be read."""
    return bool(headers) and headers[0][0].__class__ is _Mark


def last_offset(headers: Headers) -> str:
    """The offset of the last record of the batch that could not be read."""
    return headers[1][1].decode()


def refuse_unreadable(topic: str, partition: int, offset: int, headers: Headers) -> None:
    """Return if the record is one that a producer wrote.

    Raises:
        DecodeError: it stands for a batch that cannot be read; the message says where the batch lies and why.
    """
    if is_unreadable(headers):
        reason = headers[0][1].decode(errors="replace")
        raise DecodeError(
            f"the batch with the offsets {offset} to {last_offset(headers)} of {topic}, partition {partition}, cannot "
            f"be read: {reason}; mend what produced it, docs/topics.md says what is read"
        )
