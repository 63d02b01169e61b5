"""What a client may ask for beside its rows: waiting time, preferences, deadline, routing key, callback URL."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from inferlane.contracts.callback_addresses import check_url
from inferlane.errors import (
    CallbackRefusedError,
)
from producer_api.http.error_responses import InvalidParameterError

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import WebhookSettings


def check_callback_url(url: str, webhooks: "WebhookSettings") -> None:
    """Return if results are sent to this URL.

    Raises:
        CallbackRefusedError: they are not; the message says why.
    """
    if not webhooks.enabled:
        raise CallbackRefusedError(
            "a URL to call is given, and this deployment sends no callbacks; leave it out, or let the operator set "
            "INFERLANE_WEBHOOKS=on and run `inferlane webhooks`"
        )
    check_url(url, webhooks.networks)


class CallOptions(NamedTuple):
    """What a client asked for beside its tensors, in either protocol; None for what it did not say."""

    version: str | None = None
    routing_key: str | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None
    callback_url: str | None = None


class CallOrigin(NamedTuple):
    """What came with a call outside of its body: `Prefer: wait`, the W3C trace parent and the name of the API key."""

    wait_s: float | None = None
    trace_parent: bytes | None = None
    caller: str = ""


NO_ORIGIN = CallOrigin()


def given_seconds(seconds: float | msgspec.UnsetType | None) -> float | None:
    """Return the seconds of a field, or None where the body does not have it or has null."""
    return None if isinstance(seconds, msgspec.UnsetType) else seconds


def seconds_within(name: str, asked: float | None, default: float, limit: float) -> float:
    """Return the seconds that the field `name` asks for, or `default`.

    Raises:
        InvalidParameterError: they are below 0 or above `limit`.
    """
    if asked is None:
        return default
    if not 0 <= asked <= limit or math.isnan(asked):
        raise InvalidParameterError(f"{name} is {asked}; it must be between 0 and {limit} seconds")
    return asked


# A preference is a case-insensitive name, with or without a value, up to the next comma. A quoted value may contain
# commas, or text that looks like a preference; parameters after a semicolon are ignored.
_PREFERENCE = re.compile(rb"""(?:[^,"]|"(?:[^"\\]|\\.)*+")++""", re.DOTALL)


_WAIT = re.compile(rb"""\s*+wait\s*+=\s*+("?)(\d{1,6})\1\s*+(?:;.*)?""", re.IGNORECASE | re.DOTALL)


_ASYNC = re.compile(rb"\s*+respond-async\s*+(?:;.*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that the client sent; None or False for those that it did not."""

    wait_s: float | None = None
    is_async: bool = False


_NONE = Preferences()


def read_preferences(header: bytes) -> Preferences:
    """Parse the whole value of `Prefer`. Unknown preferences are ignored, and the first of two waits counts."""
    if not header:
        return _NONE
    preferences = _PREFERENCE.findall(header)
    waits = [found[2] for found in map(_WAIT.fullmatch, preferences) if found]
    is_async = any(_ASYNC.fullmatch(preference) for preference in preferences)
    return Preferences(float(waits[0]) if waits else None, is_async)
