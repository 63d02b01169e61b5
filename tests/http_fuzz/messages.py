"""Drawn messages that a proxy and a server might read differently, most with a request hidden in their body."""

import random
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.http_messages import READ, REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = [b"POST", b"POST", b"POST", b"GET", b"PUT", b"DELETE", b"OPTIONS", b"HEAD"]
_VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9"]
_CODINGS = [
    b"chunked",
    b"chunked",
    b"Chunked",
    b"gzip, chunked",
    b"chunked, identity",
    b"identity",
    b"xchunked",
    b" chunked",
    b"\tchunked",
    b"chunked\x0b",
    b'"chunked"',
]
_CONNECTIONS = [
    b"keep-alive",
    b"close",
    b"Upgrade",
    b"upgrade, keep-alive",
    b"Upgrade, HTTP2-Settings",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Host",
    b"close, Upgrade",
]
_OTHERS = [
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB",
    b"Expect: 100-continue",
    b"Expect: 100-continue, x",
    b"TE: trailers",
    b"Trailer: Content-Length",
    b"X-A : b",
    b"X-A: b\r\n c",
    b" X-A: b",
    b"X_A: b",
    b"Content_Length: 0",
    b"Transfer_Encoding: chunked",
    b"Host: other",
    b"X-A: \x00",
    b"X-A: b\nContent-Length: 0",
    b"X-A: b\rContent-Length: 0",
    b"Authorization: Bearer other",
]
_ODD_BYTES = [b"\r", b"\n", b"\r\n", b"\x00", b"\t", b" ", b":", b";", b",", b"\x0b", b"\x7f", b"\xff", b"#", b"%"]
# What a body is that an odd length or coding would leave over for the next reader.
_HIDDEN = b"GET /v1/predictions/%s HTTP/1.1\r\nHost: localhost\r\nX-Swallows: "
_MAX_PIECES = 4


def draw(draws: random.Random, marker: bytes) -> list[bytes]:
    """Return the pieces of one message, to be sent one after another; what is hidden in it asks for `marker`."""
    hidden = _HIDDEN % marker + (b"x\r\n\r\n" if draws.random() < 0.5 else b"")
    make = draws.choices([_composed, _listed], [3, 1])[0]
    message = make(draws, hidden)
    if draws.random() < 0.15:
        message = _mutated(draws, message)
    return _pieces(draws, message)


def _composed(draws: random.Random, hidden: bytes) -> bytes:
    body = _body(draws, hidden)
    headers = [b"Host: localhost"]
    headers += _length_headers(draws, len(body))
    if draws.random() < 0.5:
        headers.append(b"Connection: " + draws.choice(_CONNECTIONS))
    headers += draws.sample(_OTHERS, draws.choice([0, 0, 1, 1, 2]))
    draws.shuffle(headers)
    target = draws.choice(
        [b"/v1/models/predict", b"/v1/predictions/attacker-0-0", b"/livez", b"http://localhost/livez"]
    )
    line = b" ".join((draws.choice(_METHODS), target, draws.choice(_VERSIONS)))
    return b"\r\n".join([line, *headers]) + b"\r\n\r\n" + body


def _listed(draws: random.Random, hidden: bytes) -> bytes:
    return draws.choice([*REFUSED, *READ]).sent + hidden


def _body(draws: random.Random, hidden: bytes) -> bytes:
    shapes: list[Callable[[], bytes]] = [
        lambda: hidden,
        lambda: hidden + b" " * draws.choice([1_000, 70_000]),
        lambda: b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden),
        lambda: b"0\r\n\r\n" + hidden,
        lambda: b"3;a=b\r\nabc\r\n0\r\n\r\n" + hidden,
        lambda: b"3\r\nabc\r\n0\r\nContent-Length: 9\r\nX: y\r\n\r\n" + hidden,
        lambda: b"3\nabc\n0\n\n" + hidden,
        lambda: b"3 \r\nabc\r\n0\r\n\r\n" + hidden,
        lambda: b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n" + hidden,
        lambda: b"",
    ]
    return draws.choice(shapes)()


def _length_headers(draws: random.Random, true_length: int) -> list[bytes]:
    right = b"Content-Length: %d" % true_length
    coding = b"Transfer-Encoding: " + draws.choice(_CODINGS)
    short = b"Content-Length: %d" % draws.randrange(true_length + 1)
    return draws.choice(
        [
            [right],
            [right],
            [coding],
            [coding],
            [right, coding],
            [short, coding],
            [short],
            [right, right],
            [short, right],
            [b"Content-Length: +%d" % true_length],
            [b"Content-Length: %d, %d" % (true_length, true_length)],
            [b"Content-Length : %d" % true_length],
            [b"Transfer-Encoding : chunked", right],
            [b"Transfer-Encoding:\r\n chunked", right],
            [coding, b"Transfer-Encoding: identity"],
            [],
        ]
    )


def _mutated(draws: random.Random, message: bytes) -> bytes:
    at = draws.randrange(min(len(message), 400) + 1)
    kept = at + draws.choice([0, 1])
    return message[:at] + draws.choice([*_ODD_BYTES, b""]) + message[kept:]


def _pieces(draws: random.Random, message: bytes) -> list[bytes]:
    """Cut the message, most often where its head ends: a proxy passes on what it has."""
    head, end, body = message.partition(b"\r\n\r\n")
    if draws.random() < 0.5:
        return [head + end, body] if body else [message]
    count = draws.randrange(_MAX_PIECES)
    cuts = sorted(draws.randrange(len(message) + 1) for _ in range(count))
    bounds = [0, *cuts, len(message)]
    return [message[begin:until] for begin, until in pairwise(bounds) if begin < until]
