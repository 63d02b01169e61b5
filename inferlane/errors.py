"""Every error that Inferlane raises on purpose, and how foreign text is quoted in their messages.

InferlaneError
├── ConfigurationError        settings, ports or files are wrong
├── DecodeError               bytes do not follow the contract
├── InvalidRequestError       the client's request cannot be served as it stands
│   ├── CallbackRefusedError  a URL that no result may be sent to
│   ├── InvalidInputError     shape, type or value of the instances
│   │   └── RowsRefusedError  some rows of a batch hold what a step before the model cannot read
│   ├── InvalidNameError      a name that no model or version may have
│   ├── InvalidRolloutError   a rollout request that cannot be carried out
│   │   ├── UnknownRolloutError   no rollout has this id
│   │   ├── RolloutUnderWayError  an unfinished rollout of the model forbids the change
│   │   └── RolloutStateError     a command that does not apply in the rollout's state
│   ├── InvalidSplitError     weights of a traffic split
│   ├── PayloadTooLargeError  a body, a record or a result over its limit
│   └── UnknownModelError     a model or version that the catalog does not hold
│       └── UnusableVersionError  a version of the catalog that cannot be served
├── ModelError                the model itself failed on valid input
├── RecordRefusedError        a topic refuses this record for good
│   └── TopicMissingError     the topic of the record does not exist
├── FatalRecordError          the record killed the process that worked on it
├── ConsumerBrokenError       a consumer that only a new process can replace
└── UnavailableError          a part that we depend on does not answer now
    ├── NotServedError        it answers, but denies the call: retries do not help
    └── OverloadedError       too much is waiting here already
        └── StoreFullError    the store has no room for another result

`code` is its name in responses, dead letters and metrics; it never changes once released.
`retryable` says whether the same call may succeed later with nothing changed by the caller.
"""

import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

# Enough to recognise a value; a longer part would hide the remedy.
_QUOTED_CHARS = 60
# A whole number with more digits is not converted: that takes time that grows with their square.
_EXACT_BITS = 128


def quoted(value: object, *, limit_chars: int = _QUOTED_CHARS) -> str:
    """`value` as JSON calls it, in at most about `limit_chars` characters, with its length where it was cut."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted_text(value, len(value), "characters", limit_chars)
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[:limit_chars]).decode(errors="backslashreplace")
        return _quoted_text(head, len(value), "bytes", limit_chars)
    if isinstance(value, int) and value.bit_length() > _EXACT_BITS:
        return f"a whole number of about {value.bit_length() * 30103 // 100_000 + 1} digits"
    if isinstance(value, int | float):
        return repr(value)
    return _kind_of(value)


# What steers a terminal (escape sequences, C1 controls), what turns the direction of the text around it or is not seen
# at all, and halves of surrogate pairs. Tabs and line ends stay. Source: Unicode TR 36, section 3.6.
_STEERS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]"
)


def printable(text: str) -> str:
    """The text with whatever would steer a terminal written out in the manner of Python, fit to be shown to people."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clipped(text: str, *, limit_chars: int = 300) -> str:
    """Text of others (a library's message, a path) with its end left out past `limit_chars`, safe to encode."""
    kept = text[:limit_chars].encode(errors="backslashreplace").decode()
    return kept if len(text) <= limit_chars else f"{kept}… ({len(text)} characters)"


def _quoted_text(head: str, length: int, unit: str, limit_chars: int) -> str:
    kept = repr(head[:limit_chars])
    # An escape is up to ten characters for one.
    kept = kept if len(kept) <= 2 * limit_chars else kept[: 2 * limit_chars] + "'"
    return kept if length <= limit_chars else f"{kept}… ({length} {unit})"


def _kind_of(value: object) -> str:
    if hasattr(value, "keys"):
        return "an object"
    return "a list" if hasattr(value, "__len__") else clipped(type(value).__name__)


# The errors of msgspec for bytes that are malformed, not UTF-8, or nested too deep.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# A message is copied into answers, headers, dead letters and logs. What it quotes is cut by `inferlane.errors` where
# it is written, so that the remedy stays in sight; this is the bound for whatever was not.
MESSAGE_LIMIT_CHARS = 2_000


class InferlaneError(Exception):
    """The root. Its message says what happened, the offending value, the limit and the remedy."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    # The model and version that the call named which this error ended, where they were read; for metrics and logs.
    asked_for: tuple[str | None, str | None] = (None, None)

    def __init__(self, message: str = "") -> None:
        """The message is cut to `MESSAGE_LIMIT_CHARS` and can always be encoded."""
        super().__init__(clipped(message, limit_chars=MESSAGE_LIMIT_CHARS))


class ConfigurationError(InferlaneError):
    """Settings, ports or files are not as they must be. Remedy: the message names the setting to change."""

    code = "configuration_error"


class DecodeError(InferlaneError):
    """Bytes do not hold what the contract says. Remedy: mend the producer; docs/topics.md has the format."""

    code = "undecodable"


class InvalidRequestError(InferlaneError):
    """The request cannot be served as it stands. Remedy: change the request as the message says."""

    code = "invalid_request"


class CallbackRefusedError(InvalidRequestError):
    """A URL that no result may be sent to. Remedy: name a public http(s) address, without user and password."""

    code = "callback_refused"


class InvalidInputError(InvalidRequestError):
    """Instances do not fit the model's signature. Remedy: send the shape and type that the message names."""

    code = "invalid_input"


class RowsRefusedError(InvalidInputError):
    """A step before the model cannot read some rows. Remedy: the message says it for the first of them."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        """`reasons` by the number of the row, from 0; at least one."""
        first = min(reasons)
        more = f" (and {len(reasons) - 1} more rows)" if len(reasons) > 1 else ""
        super().__init__(f"row {first}: {reasons[first]}{more}")
        self.reasons = reasons

    def moved(self, rows: int) -> "RowsRefusedError":
        """The same error with every row's number raised by `rows`."""
        return RowsRefusedError({row + rows: reason for row, reason in self.reasons.items()})


class InvalidNameError(InvalidRequestError):
    """A name that no model or version may have. Remedy: the message has the rule."""

    code = "invalid_name"


class InvalidRolloutError(InvalidRequestError):
    """A rollout that cannot be done as it was asked for. Remedy: the message says what to change."""

    code = "invalid_rollout"


class UnknownRolloutError(InvalidRolloutError):
    """No rollout has this id. Remedy: list them."""

    code = "unknown_rollout"


class RolloutUnderWayError(InvalidRolloutError):
    """A rollout of the model is not over. Remedy: end it, or force the change, which pauses it."""

    code = "rollout_under_way"


class RolloutStateError(InvalidRolloutError):
    """The rollout is in a state in which the command does not apply. Remedy: the message says what does."""

    code = "rollout_state_conflict"


class InvalidSplitError(InvalidRequestError):
    """Weights that no split can have. Remedy: name known versions, weights >= 0 that sum to more than 0."""

    code = "invalid_split"


class PayloadTooLargeError(InvalidRequestError):
    """Over a size limit. Remedy: send fewer rows a request, or use the bulk lane."""

    code = "payload_too_large"

    def __init__(self, message: str, *, limit_bytes: int | None = None) -> None:
        """`limit_bytes`: what would have been taken, where that is a number of bytes."""
        super().__init__(message)
        self.limit_bytes = limit_bytes


class UnknownModelError(InvalidRequestError):
    """The catalog has no such model or version. Remedy: `GET /v1/models` lists what there is."""

    code = "unknown_model"


class UnusableVersionError(UnknownModelError):
    """A model or version that is there and cannot be served. Remedy: its operator mends what the message says."""

    code = "unusable_version"


class ModelError(InferlaneError):
    """The model failed on input that fits its signature. Remedy: look at the model, then replay the dead letter."""

    code = "model_error"


class RecordRefusedError(InferlaneError):
    """A topic takes other records and never this one. Remedy: as the message says, then send or replay it again."""

    code = "record_refused"


class TopicMissingError(RecordRefusedError):
    """The topic that a record belongs into does not exist. Remedy: `inferlane topics create`, then send it again."""

    code = "topic_missing"


class FatalRecordError(InferlaneError):
    """The process that worked on the record died, each time. Remedy: look at its memory limit and at the model."""

    code = "fatal_record"


class ConsumerBrokenError(InferlaneError):
    """A consumer whose own tasks have ended. Remedy: let the process end; its supervisor starts another."""

    code = "consumer_broken"


class UnavailableError(InferlaneError):
    """A part that we depend on does not answer now. Remedy: send the same request again later."""

    code = "unavailable"
    retryable = True


class NotServedError(UnavailableError):
    """A part denies what we ask, or does not know it. Remedy: the message names the rights and settings to look at."""

    code = "not_served"
    retryable = False


class OverloadedError(UnavailableError):
    """Too much is waiting here already. Remedy: send again after the seconds that `Retry-After` names."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        """`retry_after_s`: when the same call is worth another try."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreFullError(OverloadedError):
    """The store has no room for another result. Remedy: send again later; give the store more memory."""

    code = "store_full"
