"""A small client of the HTTP API."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp
import msgspec

from .api_key import key_remedy, read_key
from .documents import Models, Problem, Split
from .shares import SPLIT_SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "http://127.0.0.1:8000"
JSON_HEADERS = {"content-type": "application/json"}
OK = 200
# How much longer than its own timeout a request may take before the client gives up: the server should be the one
# that answers that time ran out. Too small hides its answer; too large holds the end of a run that got none.
ANSWER_GRACE_S = 5.0

T = TypeVar("T")


class ApiError(Exception):
    """The API did not answer as asked; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer, undecoded."""

    status: int
    body: bytes

    def document(self, kind: type[T]) -> T:
        """Decode the body.

        Raises:
            ApiError: the body is not such a document.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(
                f"the answer ({self.status}) is no {kind.__name__}: {error}; it begins with {self.body[:120]!r}"
            ) from error


class Api:
    """Calls one Inferlane API, with the key of `INFERLANE_API_KEY` if there is one.

    An async context manager; made and used on one event loop.
    """

    def __init__(self, url: str, *, connections: int = 100, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> Self:
        # Environment proxies are not for a server that is measured.
        connector = aiohttp.TCPConnector(limit=self._connections)
        key = read_key()
        self.session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            trust_env=False,
            headers={"authorization": f"Bearer {key}"} if key else None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
    ) -> Reply:
        """Send one request and return its answer, whatever the status.

        Raises:
            ApiError: no answer came.
        """
        payload = None if body is None else msgspec.json.encode(body)
        try:
            async with self.session.request(method, self.url + path, data=payload, headers=JSON_HEADERS) as response:
                return Reply(status=response.status, body=await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ApiError(
                f"{method} {self.url}{path} got no answer: {reason}; start the server with ./start.sh, "
                "or name another one with --url"
            ) from error

    async def models(self) -> Models:
        reply = await self.call("GET", "/v1/models")
        return expect_ok(reply, "GET /v1/models").document(Models)

    async def set_split(self, model: str, weights: Mapping[str, float]) -> Split:
        """Set the weights and wait until routers have had the time to apply them."""
        reply = await self.call("POST", "/v1/traffic-split", body={"model": model, "weights": dict(weights)})
        split = expect_ok(reply, "POST /v1/traffic-split").document(Split)
        await asyncio.sleep(SPLIT_SETTLE_S)
        return split


def expect_ok(reply: Reply, what: str) -> Reply:
    """Return the reply if its status is 200.

    Raises:
        ApiError: it is not; the message is the problem document's.
    """
    if reply.status == OK:
        return reply
    try:
        problem = reply.document(Problem)
    except ApiError:
        problem = Problem(detail=repr(reply.body[:200]))
    detail = " ".join(part for part in (problem.title, problem.detail, problem.remedy) if part)
    message = f"{what} answered {reply.status} {problem.code}: {detail}"
    raise ApiError(f"{message}; {remedy}" if (remedy := key_remedy(reply.status)) else message)
