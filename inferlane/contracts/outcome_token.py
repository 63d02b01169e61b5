"""Outcome tokens: model, version and class of a result, signed, so that feedback needs no record of the request. Pure.

A token names model, version, segment and day, and holds a digest of the predicted class of a request of one row. It
says nothing of the inputs, and nobody without the secret can make one. Source of the signature: HMAC, RFC 2104.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Annotated, Self

import msgspec

from inferlane.errors import UNDECODABLE, InvalidRequestError

_DAY_S = 86_400
# Of 32 bytes: too many to guess (RFC 2104, section 5, asks for at least half), and short in a header.
_SIGNATURE_BYTES = 16
_DIGEST_BYTES = 8
MAX_TOKEN_CHARS = 1_024


NO_SEGMENT = -1
"""The segment of a request without a routing key: each piece of its feedback is a draw of its own."""


class TokenContents(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The contents of a token.

    `segment` is the key bucket of the routing key, NO_SEGMENT without one; `day` counts since 1970.
    `request` is a digest of the request's key, the same for each result of a request; `label` one of the predicted
    class, empty where there is none or more than one row.
    """

    model: Annotated[str, msgspec.Meta(max_length=200)]
    version: Annotated[str, msgspec.Meta(max_length=200)]
    segment: Annotated[int, msgspec.Meta(ge=NO_SEGMENT, lt=1024)]
    day: Annotated[int, msgspec.Meta(ge=0)]
    request: bytes
    label: bytes = b""

    @classmethod
    def of(cls, model: str, version: str, *, segment: int, request_key: str, at_s: float, label: bytes) -> Self:
        """Return the contents for a request that this version answered at that time."""
        return cls(
            model=model,
            version=version,
            segment=segment,
            day=day_of(at_s),
            request=request_digest(request_key),
            label=label,
        )

    def is_label(self, label: str) -> bool:
        """Return whether the predicted class was `label`."""
        return hmac.compare_digest(self.label, label_digest(label))


def label_digest(label: str) -> bytes:
    """Return the digest of a class that a token holds."""
    return blake2b(label.encode(), digest_size=_DIGEST_BYTES, person=b"outcome-label").digest()


def request_digest(key: str) -> bytes:
    """Return the digest of a request that a token holds: the same for all results of one request."""
    return blake2b(key.encode(), digest_size=_DIGEST_BYTES, person=b"outcome-request").digest()


def day_of(at_s: float) -> int:
    """Return the day of a moment, in UTC since 1970."""
    return int(at_s // _DAY_S)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TokenContents).decode


class OutcomeTokens:
    """Signs tokens with the first of its secrets, and reads those signed with any of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = [secret.encode() for secret in secrets]

    @classmethod
    def of(cls, secrets: str) -> Self | None:
        """Return the tokens of comma-separated secrets; None without a secret."""
        found = [secret.strip() for secret in secrets.split(",") if secret.strip()]
        return cls(found) if found else None

    def sign(self, outcome: TokenContents) -> str:
        """Return the token of an outcome."""
        raw = _encode(outcome)
        return urlsafe_b64encode(_signature(self._secrets[0], raw) + raw).rstrip(b"=").decode()

    def read(self, token: str, *, now_s: float, max_age_s: float) -> TokenContents:
        """Read a token.

        Raises:
            InvalidRequestError: the signature is wrong, or the token is too old.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidRequestError(f"the outcome token has {len(token)} characters, the limit is {MAX_TOKEN_CHARS}")
        try:
            raw = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except ValueError as error:
            raise InvalidRequestError("the outcome token is not base64; send it back as it came") from error
        signature, said = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(_signature(secret, said), signature) for secret in self._secrets):
            raise InvalidRequestError(
                "the outcome token is not signed by this stack; send it back as it came, and keep the secret that it "
                "was signed with in INFERLANE_FEEDBACK_SECRET"
            )
        try:
            outcome = _decode(said)
        except UNDECODABLE as error:
            raise InvalidRequestError("the outcome token is of another version of Inferlane") from error
        age_days = day_of(now_s) - outcome.day
        if age_days * _DAY_S > max_age_s:
            raise InvalidRequestError(
                f"the outcome token is {age_days} days old, the limit is {max_age_s / _DAY_S:g} "
                "(INFERLANE_FEEDBACK_MAX_AGE_S)"
            )
        return outcome


def _signature(secret: bytes, said: bytes) -> bytes:
    return hmac.digest(secret, said, sha256)[:_SIGNATURE_BYTES]
