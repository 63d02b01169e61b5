"""Who goes through a proxy: clients that ask for a name of their own, and attackers that send drawn messages."""

import asyncio
import json
import random
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.http_fuzz.messages import draw

_MARKER = re.compile(rb"(?:client|attacker)-\d+-\d+")
# How long a client waits for its answer: longer than the proxies' own limits, which answer then.
_ANSWER_TIMEOUT_S = 20.0
# How long an attacker looks at what its message brought, and waits between its pieces.
_LOOK_S = 0.1
_PAUSES_S = [0.0, 0.001, 0.01]
_READ_BYTES = 65_536
# What a proxy says itself when the server closed the connection that it had chosen: no answer of anybody.
_PROXY_STATUSES = frozenset({502, 503, 504})


@dataclass(kw_only=True)
class Tally:
    """What was sent and what came back through one proxy; `leaks` holds answers that were not their reader's."""

    messages: int = 0
    answers: int = 0
    unanswered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)


async def ask_for_ever(port: int, key: str, number: int, tally: Tally) -> None:
    """Ask again and again for a name that nobody else asks for, on connections that are kept."""
    sequence = 0
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    sequence += 1
                    marker = f"client-{number}-{sequence}"
                    writer.write(_question(marker, key, is_post=bool(sequence % 2)))
                    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                        status, body = await _answer(reader)
                    _judge(marker, status, body, tally)
            except TimeoutError:
                tally.leaks.append(f"{marker} had no answer within {_ANSWER_TIMEOUT_S:g} s")
            finally:
                tally.unanswered += 1
                writer.close()


async def attack_for_ever(port: int, key: str, number: int, tally: Tally, draws: random.Random) -> None:
    """Send drawn messages, with a request of ours behind some, and look whether a client's answer comes back."""
    sequence = 0
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sequence += 1
            marker = f"attacker-{number}-{sequence}"
            pieces = draw(draws, marker.encode())
            if draws.random() < 0.3:
                pieces.append(_question(marker, key, is_post=False))
            seen = b""
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(draws.choice(_PAUSES_S))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        while chunk := await reader.read(_READ_BYTES):
                            seen += chunk
            finally:
                tally.messages += 1
                writer.close()
                foreign = {found for found in _MARKER.findall(seen) if found.startswith(b"client-")}
                if foreign:
                    tally.leaks.append(f"{marker} sent {pieces!r:.2000} and got {seen!r:.2000}")


def _question(marker: str, key: str, *, is_post: bool) -> bytes:
    """A call whose answer says its marker: the model, or the prediction, of that name is unknown."""
    head = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n"
    if not is_post:
        return f"GET /v1/predictions/{marker} HTTP/1.1\r\n{head}\r\n".encode()
    body = json.dumps({"model": marker, "instances": [[0, 0, 0]]})
    return f"POST /v1/models/predict HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"content-length: *(\d+)", head)
    return int(head.split(b" ")[1]), await reader.readexactly(int(length[1])) if length else b""


def _judge(marker: str, status: int, body: bytes, tally: Tally) -> None:
    tally.statuses[status] += 1
    if status in _PROXY_STATUSES and not _MARKER.search(body):
        tally.unanswered += 1
        return
    tally.answers += 1
    if set(_MARKER.findall(body)) != {marker.encode()}:
        tally.leaks.append(f"{marker} got {status} {body!r:.1000}")
