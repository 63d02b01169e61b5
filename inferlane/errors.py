"""Every error that Inferlane raises on purpose.

InferlaneError
├── ConfigurationError        settings, ports or files are not as they must be
├── DecodeError               bytes do not hold what the contract says
├── InvalidRequestError       the client's request cannot be served as it stands
│   ├── InvalidInputError     shape, type or value of the instances
│   ├── InvalidNameError      a name that no model or version may have
│   ├── InvalidSplitError     weights of a traffic split
│   ├── PayloadTooLargeError  a body, a record or a result over its limit
│   └── UnknownModelError     a model or version that the catalog does not hold
│       └── UnusableVersionError  one that it holds and that cannot be served
├── ModelError                the model itself failed on valid input
├── RecordRefusedError        a topic takes other records and not this one
│   └── TopicMissingError     the topic that a record belongs into does not exist
├── FatalRecordError          the process that worked on the record died of it
├── ConsumerBrokenError       a consumer that only a new process can replace
└── UnavailableError          a part that we depend on does not answer now
    ├── NotServedError        it answers, and will not do what we ask: no retry mends that
    └── OverloadedError       too much is waiting here already
        └── StoreFullError    the store has no room for another result

`code` is what the client, the dead letter and the metrics call it; it never changes once released.
`retryable` says whether the same call may succeed later with nothing changed by the caller.
"""

from typing import ClassVar

import msgspec

from inferlane.quoting import clipped

# What msgspec raises for bytes that do not hold what they must: malformed, not UTF-8, or nested too deep.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# A message is copied into answers, headers, dead letters and logs. What it quotes is cut by `inferlane.quoting` where
# it is written, so that the remedy stays in sight; this is the bound for whatever was not.
MESSAGE_LIMIT_CHARS = 2_000


class InferlaneError(Exception):
    """The root. Its message says what happened, the offending value, the limit and the remedy."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

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


class InvalidInputError(InvalidRequestError):
    """Instances do not fit the model's signature. Remedy: send the shape and type that the message names."""

    code = "invalid_input"


class InvalidNameError(InvalidRequestError):
    """A name that no model or version may have. Remedy: the message has the rule."""

    code = "invalid_name"


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
