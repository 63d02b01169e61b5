"""Feedback: the true outcome of a prediction, given later (`inferlane.feedback`), and its report by version."""

from typing import Annotated

import msgspec

from inferlane.contracts.outcome_token import MAX_TOKEN_CHARS
from inferlane.errors import UNDECODABLE, DecodeError, clipped

# A larger reward would outweigh all other feedback on a version.
MAX_REWARD = 1e9
# The most pieces of feedback in one call.
MAX_PIECES = 100


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Feedback on one prediction: the right class, or a reward (a number, higher is better), or both."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN_CHARS)]
    label: Annotated[str, msgspec.Meta(max_length=1_000)] | None = None
    reward: Annotated[float, msgspec.Meta(ge=-MAX_REWARD, le=MAX_REWARD)] | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with a 95 % confidence interval that is valid at any time (a confidence sequence)."""

    count: int
    mean: float
    low: float
    high: float


class FeedbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """The feedback on a version: `quality` is the share of labels that were predicted; None without labels."""

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
        DecodeError: the record is not feedback.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"a record of the feedback topic holds no feedback: {clipped(str(error))}") from error


def decode_report(raw: bytes) -> FeedbackReport:
    """Read a stored report.

    Raises:
        DecodeError: the bytes cannot be decoded.
    """
    try:
        return _decode_report(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"stored bytes hold no feedback report: {clipped(str(error))}") from error
