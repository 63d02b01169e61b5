"""Signatures of callbacks, as the specification of Standard Webhooks wants them.

A deployment has one secret, from which the secret of each API key is derived. So a receiver that knows the secret of
one key cannot forge callbacks of another, and a producer to the request topics cannot forge any.
"""

import base64
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256

from standardwebhooks import Webhook

from inferlane.contracts.callbacks import Callback
from inferlane.errors import ConfigurationError

PREFIX = "whsec_"
# Source: Standard Webhooks, "Signature scheme": 24 to 64 bytes.
_LEAST_BYTES, _MOST_BYTES = 24, 64
_PURPOSE = b"inferlane callbacks of the API key "


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Read the secrets of `INFERLANE_WEBHOOK_SECRET`, separated by commas.

    Raises:
        ConfigurationError: there is none, or one is malformed; the message never says it.
    """
    secrets = tuple(_parsed(part.strip(), number) for number, part in enumerate(text.split(","), 1) if part.strip())
    if not secrets:
        raise ConfigurationError(
            "INFERLANE_WEBHOOK_SECRET is not set, and callbacks must be signed; set it to whsec_ and the output of "
            "`openssl rand -base64 32`"
        )
    return secrets


def _parsed(text: str, number: int) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        raw = b""
    if not text.startswith(PREFIX) or not _LEAST_BYTES <= len(raw) <= _MOST_BYTES:
        raise ConfigurationError(
            f"secret {number} of INFERLANE_WEBHOOK_SECRET is not {PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} bytes as "
            "Base64; make one with `openssl rand -base64 32`"
        )
    return raw


def secret_of_key(secret: bytes, name: str) -> bytes:
    """Return the secret that callbacks for the API key of this name are signed with; for no name, the deployment's."""
    return hmac.new(secret, _PURPOSE + name.encode(), sha256).digest() if name else secret


def written(secret: bytes) -> str:
    """Return a secret as receivers configure it."""
    return PREFIX + base64.b64encode(secret).decode()


class Signer:
    """Signs callbacks with each of the deployment's secrets."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)

    def headers(self, callback: Callback, *, now_s: float) -> dict[str, str]:
        """Return the headers of a callback that is sent now."""
        moment = datetime.fromtimestamp(int(now_s), UTC)
        text = callback.body.decode()
        signatures = (
            Webhook(secret_of_key(secret, callback.caller)).sign(callback.callback_id, moment, text)
            for secret in self._secrets
        )
        return {
            "webhook-id": callback.callback_id,
            "webhook-timestamp": str(int(now_s)),
            "webhook-signature": " ".join(signatures),
        }
