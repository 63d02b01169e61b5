"""Asking over HTTP: waiting, not waiting, taking back, and coming again for the result."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from tests.faults.harness.ledger import Entry, Ledger
from tests.faults.harness.questions import MODEL, Oracle, Question, Way
from tests.faults.harness.system import System

_PATH = "/v1/models/predict"
_WAIT_S = 4.0
# More than any wait that is asked for: an API that says nothing for longer is frozen or gone.
_TIMEOUT_S = 30.0
_RETRY_S = 0.2
_POLL_WAIT_S = (0.0, 2.0)
_CANCELLED_SHARE = 0.1
_KEYED_SHARE = 0.5
_ASKED_TWICE_SHARE = 0.2


class UnansweredError(Exception):
    """The call had no answer: refused, reset, cut by the schedule, or silent for too long."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer of the API; `sent_s` is when its call was sent."""

    sent_s: float
    status: int
    body: Mapping[str, Any]


class HttpWays:
    """The HTTP clients. One event loop."""

    def __init__(self, system: System, ledger: Ledger, oracle: Oracle, draw: random.Random) -> None:
        self._system = system
        self._ledger = ledger
        self._oracle = oracle
        self._draw = draw
        self._open: set[asyncio.Task[_Reply]] = set()
        self._opened = asyncio.Event()
        # Accepted over HTTP or produced to the request topic: the API knows what became of it.
        self._to_follow: asyncio.Queue[str] = asyncio.Queue()
        self.following = 0
        self.refused: Counter[int] = Counter()
        self.unanswered = 0
        # How long calls that waited took until 200, in seconds.
        self.waits_s: list[float] = []
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, way: Way, question: Question) -> None:
        """Send the question until an API answers that it took it; a call without an answer was not accepted."""
        is_async = way is Way.HTTP_ASYNC
        body: dict[str, Any] = {
            "model": MODEL,
            "instances": question.rows,
            "timeout_s": _WAIT_S,
            "deadline_s": question.deadline_s,
        }
        if question.version is not None:
            body["version"] = question.version
        headers = {"prefer": "respond-async"} if is_async else {}
        is_keyed = self._draw.random() < _KEYED_SHARE
        if is_keyed:
            headers["idempotency-key"] = uuid.uuid4().hex
        first_sent_s = time.time()
        reply = await self._ask_until_accepted(body, headers)
        if way is Way.HTTP_WAIT and reply.status == 200:
            self.waits_s.append(time.time() - reply.sent_s)
        entry = self._accepted(way, question, reply, first_sent_s, is_keyed=is_keyed)
        if is_keyed and self._draw.random() < _ASKED_TWICE_SHARE:
            again = await self._ask_until_accepted(body, headers)
            if again.body["request_id"] == entry.request_id:
                self._observe(entry.request_id, again)
            else:
                entry.second_id = again.body["request_id"]

    async def _ask_until_accepted(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> _Reply:
        while True:
            try:
                reply = await self._call("POST", _PATH, json=body, headers=headers)
            except UnansweredError:
                self.unanswered += 1
            else:
                if reply.status in (200, 202) or "prediction_status" in reply.body:
                    return reply
                self.refused[reply.status] += 1
            await asyncio.sleep(_RETRY_S)

    def follow(self, request_id: str) -> None:
        """Have the result of an accepted request looked up until it is there."""
        self.following += 1
        self._to_follow.put_nowait(request_id)

    async def follow_for_ever(self) -> None:
        """Come again for results, one after the other. Any number of these may run."""
        while True:
            request_id = await self._to_follow.get()
            if await self._look_up(request_id):
                self.following -= 1
            else:
                self._to_follow.put_nowait(request_id)
                await asyncio.sleep(_RETRY_S)

    async def cut(self) -> None:
        """Close the connection of a call that waits for its answer, as soon as there is one."""
        while not self._open:
            self._opened.clear()
            await self._opened.wait()
        self._draw.choice(list(self._open)).cancel()

    def _accepted(self, way: Way, question: Question, reply: _Reply, asked_s: float, *, is_keyed: bool) -> Entry:
        now_s = time.time()
        # Under a key, a call that was not answered may be the one whose deadline counts.
        sent_s = asked_s if is_keyed else reply.sent_s
        entry = Entry(
            request_id=reply.body["request_id"],
            way=way,
            question=question,
            due_from_s=sent_s + question.deadline_s,
            due_by_s=now_s + question.deadline_s,
            asked_s=asked_s,
            is_cancelled=way is Way.HTTP_ASYNC and self._draw.random() < _CANCELLED_SHARE,
        )
        self._ledger.expect(entry)
        self._ledger.accept(entry.request_id, at_s=now_s)
        self._observe(entry.request_id, reply)
        self.follow(entry.request_id)
        return entry

    async def _look_up(self, request_id: str) -> bool:
        """Whether the result was there."""
        entry = self._ledger.entries[request_id]
        path = f"/v1/predictions/{request_id}"
        try:
            if entry.is_cancelled and entry.answer is None:
                reply = await self._call("DELETE", path)
            else:
                asked = {"wait_s": f"{self._draw.uniform(*_POLL_WAIT_S):.3f}", "source": entry.source}
                reply = await self._call("GET", path, params=asked)
        except UnansweredError:
            self.unanswered += 1
            return False
        if reply.status == 200:
            return self._observe(request_id, reply)
        if reply.status == 404 and entry.may_be_forgotten:
            return True
        if reply.status == 404 and entry.way is not Way.REQUESTS:
            entry.was_denied = True
        elif reply.status != 404:
            self.refused[reply.status] += 1
        return False

    def _observe(self, request_id: str, reply: _Reply) -> bool:
        """Note the terminal result in the reply; whether there was one."""
        body = reply.body
        if "prediction_status" in body:
            body = {"status": body["prediction_status"], "version": "", "error": {"code": body["code"]}}
        answer = self._oracle.read_http(body)
        if answer is not None:
            self._ledger.observe(request_id, answer, at_s=time.time())
        return answer is not None

    async def _call(self, method: str, path: str, **more: Any) -> _Reply:
        url = self._system.api_url(self._draw) + path
        call = asyncio.create_task(self._exchange(method, url, more))
        self._open.add(call)
        self._opened.set()
        try:
            await asyncio.wait({call})
        finally:
            self._open.discard(call)
            call.cancel()
        if call.cancelled():
            raise UnansweredError(f"{method} {url}: cut")
        try:
            return call.result()
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise UnansweredError(f"{method} {url}: {error!r}") from error

    async def _exchange(self, method: str, url: str, more: Mapping[str, Any]) -> _Reply:
        sent_s = time.time()
        async with self._session.request(method, url, **more) as response:
            return _Reply(sent_s, response.status, msgspec.json.decode(await response.read()))
