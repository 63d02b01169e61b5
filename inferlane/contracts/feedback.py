"""Feedback: what became of a prediction, days later (`inferlane.feedback`), and what it says of a version."""

from typing import Annotated

import msgspec

from inferlane.contracts.outcome_token import MAX_TOKEN_CHARS
from inferlane.errors import UNDECODABLE, DecodeError, clipped

# A reward that is larger would outweigh everything else that is known of a version.
MAX_REWARD = 1e9
# Pieces in one call.
MAX_PIECES = 100


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What became of one prediction: the right class, or a number that says how well it went, or both."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN_CHARS)]
    label: Annotated[str, msgspec.Meta(max_length=1_000)] | None = None
    reward: Annotated[float, msgspec.Meta(ge=-MAX_REWARD, le=MAX_REWARD)] | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with its interval, which holds at any time that one looks, with a confidence of 95 %."""

    count: int
    mean: float
    low: float
    high: float


class FeedbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """What feedback says of a version: `quality` is the share of labels that were predicted. None without any."""

    quality: Measured | None = None
    reward: Measured | None = None
    updated_s: float = 0.0


class Sums(msgspec.Struct, frozen=True):
    """Count, sum and sum of squares of feedback on requests of one segment (a key bucket)."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0


encode_feedback = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Feedback).decode
encode_report = msgspec.json.Encoder().encode
_decode_report = msgspec.json.Decoder(FeedbackReport).decode


def decode_feedback(raw: bytes) -> Feedback:
    """Read a record of the feedback topic.

    Raises:
        DecodeError: it holds no feedback.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"a record of the feedback topic holds no feedback: {clipped(str(error))}") from error


def decode_report(raw: bytes) -> FeedbackReport:
    """Read a stored report.

    Raises:
        DecodeError: the bytes are none.
    """
    try:
        return _decode_report(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"stored bytes hold no feedback report: {clipped(str(error))}") from error
