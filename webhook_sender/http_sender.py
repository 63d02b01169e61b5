"""One call of a receiver over HTTP, to an address that is checked when the connection is made.

A receiver is chosen by a client and may be hostile. No redirect is followed, no cookie is kept, no proxy or netrc file
of the environment is used, and of an answer a few kilobytes are read at most, for a few seconds, as they come.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from yarl import URL

from inferlane import __version__
from inferlane.contracts.callback_addresses import Network, check_address
from inferlane.errors import CallbackRefusedError, clipped
from inferlane.runtime.http.answer_body import read_up_to
from webhook_sender.name_resolver import NameResolver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The most bytes that are read of an answer, to reuse the connection; after a longer answer it is closed.
_MAX_ANSWER_BYTES = 16 * 1024
_MAX_HEAD_LINE_BYTES = 8 * 1024
_SUCCESS = range(200, 300)
# More is longer than any callback is kept.
_MAX_WAIT_DIGITS = 9
_REFUSED = (
    "the name leads to a private, local or reserved address; let the operator allow its network with "
    "INFERLANE_WEBHOOK_ALLOWED_NETWORKS"
)


class CallOutcome(StrEnum):
    """How a call ended."""

    DELIVERED = "delivered"
    # It may succeed later.
    FAILED = "failed"
    # The receiver wants no more calls of this URL: 410.
    GONE = "gone"
    # The address may not be called.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended, with a detail for people, and how long the receiver wants to be left alone."""

    outcome: CallOutcome
    detail: str = ""
    retry_after_s: float = 0.0


class _AddressRefusedError(OSError):
    """What the connector understands; always the same text, so that it is raised itself where all addresses are."""

    def __init__(self) -> None:
        super().__init__("the address may not be called")


class HttpSender:
    """Calls receivers. Used from one event loop."""

    def __init__(self, *, networks: "Sequence[Network]", timeout_s: float) -> None:
        """`networks`: the networks that may be called although they are not public."""
        self._networks = tuple(networks)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Without a limit: a call that waited for a connection would seem to be one that its receiver does not answer.
        # Whoever calls bounds the calls.
        connector = aiohttp.TCPConnector(socket_factory=self._socket, resolver=NameResolver(), limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers={"user-agent": f"inferlane/{__version__}", "content-type": "application/json"},
            skip_auto_headers={"accept-encoding"},
            auto_decompress=False,
            trust_env=False,
            max_line_size=_MAX_HEAD_LINE_BYTES,
            max_field_size=_MAX_HEAD_LINE_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, url: str, body: bytes, headers: "Mapping[str, str]") -> CallResult:
        """POST the body and return how that ended; never raises for anything that the receiver does."""
        try:
            return await self._post(url, body, headers)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _AddressRefusedError):
                return CallResult(CallOutcome.REFUSED, _REFUSED)
            return CallResult(CallOutcome.FAILED, clipped(str(error)))
        except (aiohttp.InvalidURL, ValueError) as error:
            return CallResult(CallOutcome.REFUSED, clipped(f"the URL cannot be called: {error}"))
        except TimeoutError:
            return CallResult(CallOutcome.FAILED, f"no answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return CallResult(CallOutcome.FAILED, clipped(f"{type(error).__name__}: {error}"))

    async def _post(self, url: str, body: bytes, headers: "Mapping[str, str]") -> CallResult:
        if self._session is None:
            raise RuntimeError("the sender is not open")
        post = self._session.post(URL(url, encoded=True), data=body, headers=dict(headers), allow_redirects=False)
        async with post as answer:
            await self._read_rest(answer)
            return _result_of(answer.status, answer.headers.get("retry-after", ""))

    @staticmethod
    async def _read_rest(answer: aiohttp.ClientResponse) -> None:
        """Read a short answer whole; the status is what counts, so one that stops in the middle is no failure."""
        body: bytes | None = None
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            body = await read_up_to(answer, _MAX_ANSWER_BYTES)
        if body is None:
            answer.close()

    def _socket(self, address_info: Any) -> socket.socket:
        """Create the socket of a connection to this resolved address; the checked address cannot change any more."""
        family, kind, protocol, _, address = address_info
        try:
            check_address(str(address[0]), self._networks)
        except CallbackRefusedError:
            raise _AddressRefusedError from None
        return socket.socket(family=family, type=kind, proto=protocol)


def _result_of(status: int, retry_after: str) -> CallResult:
    if status in _SUCCESS:
        return CallResult(CallOutcome.DELIVERED)
    if status == HTTPStatus.GONE:
        return CallResult(CallOutcome.GONE, "the receiver answered 410: it wants no more callbacks at this URL")
    return CallResult(CallOutcome.FAILED, f"the receiver answered {status}", wait_of(retry_after, now_s=time.time()))


def wait_of(retry_after: str, *, now_s: float) -> float:
    """Return the seconds that a `Retry-After` asks for, 0 if it says nothing. Source: RFC 9110, section 10.2.3."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:_MAX_WAIT_DIGITS])
    try:
        until = parsedate_to_datetime(retry_after)
        # The oldest of the three forms names no zone.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, until.timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
