"""Messages that a proxy and a server may read differently, each with the only answers that are right.

`REFUSED` messages end their connection: what follows them is never read as a request. `READ` messages have one meaning,
and the connection goes on.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

LIMIT_S = 60.0
REQUEST_LINE = b"POST /echo HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
FOLLOWER = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A message and the statuses that may refuse it."""

    name: str
    sent: bytes
    statuses: frozenset[int] = frozenset({400})


@dataclass(frozen=True, kw_only=True)
class Read:
    """A message and the body that it carries; `closes` if no request follows it on its connection."""

    name: str
    sent: bytes
    body: bytes = b""
    closes: bool = False


async def answers_to(port: int, *packets: bytes) -> list[tuple[int, Any]]:
    """Send the packets, read until the server closes, and return the status and the JSON of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(LIMIT_S):
            for packet in packets:
                writer.write(packet)
                await writer.drain()
                # Let it go out, and be read, by itself.
                await asyncio.sleep(0)
            raw = await reader.read()
    finally:
        writer.close()
    answers = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = int(next(line for line in lines if line.startswith("content-length")).partition(":")[2])
        answers.append((int(lines[0].split(" ")[1]), json.loads(rest[:length])))
        raw = rest[length:]
    return answers


def post(*headers: bytes, line: bytes = REQUEST_LINE, host: bytes = HOST, body: bytes = b"") -> bytes:
    return line + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def chunked(*parts: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=b"".join(parts))


def coded(coding: bytes) -> bytes:
    return post(b"Transfer-Encoding: " + coding, body=b"3\r\nabc\r\n0\r\n\r\n")


def sized(length: bytes) -> bytes:
    return post(b"Content-Length: " + length, body=b"abc")


def target(value: bytes) -> bytes:
    return post(line=b"GET " + value + b" HTTP/1.1\r\n")


def version(value: bytes) -> bytes:
    return post(line=b"GET /livez " + value + b"\r\n")


_VERSION = frozenset({400, 505})
_CODING = frozenset({400, 501})
_END = b"0\r\n\r\n"
_UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
# A body that is a request: whoever takes it for one has been smuggled to.
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LENGTH = b"Content-Length: %d" % len(_SMUGGLED)

REFUSED = [
    Refused(name="no Host", sent=post(host=b"")),
    Refused(name="two Hosts", sent=post(b"Host: other")),
    Refused(name="two equal Hosts", sent=post(b"Host: localhost")),
    Refused(name="an empty Host", sent=post(host=b"Host:\r\n")),
    Refused(name="a Host with a path", sent=post(host=b"Host: localhost/x\r\n")),
    Refused(name="a Host with a user", sent=post(host=b"Host: a@localhost\r\n")),
    Refused(name="a Host with a space", sent=post(host=b"Host: localhost other\r\n")),
    Refused(name="a Host with two ports", sent=post(host=b"Host: localhost:1:2\r\n")),
    Refused(name="a Host not in ASCII", sent=post(host=b"Host: localh\xc3\xb6st\r\n")),
    Refused(name="two Authorizations", sent=post(b"Authorization: Bearer a", b"authorization: Bearer b")),
    Refused(name="two keys", sent=post(b"X-Api-Key: a", b"x-api-key: b")),
    Refused(name="two Content-Types", sent=post(b"Content-Type: text/plain", b"Content-Type: application/json")),
    Refused(name="two Content-Encodings", sent=post(b"Content-Encoding: gzip", b"Content-Encoding: identity")),
    Refused(name="two Idempotency-Keys", sent=post(b"Idempotency-Key: a", b"Idempotency-Key: b")),
    Refused(name="two Content-Lengths", sent=post(b"Content-Length: 3", b"Content-Length: 4", body=b"abc")),
    Refused(name="two equal Content-Lengths", sent=post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    Refused(name="a list of Content-Lengths", sent=sized(b"3, 3")),
    Refused(
        name="Content-Length and Transfer-Encoding", sent=post(b"Content-Length: 3", b"Transfer-Encoding: chunked")
    ),
    Refused(
        name="Transfer-Encoding and Content-Length", sent=post(b"Transfer-Encoding: chunked", b"Content-Length: 3")
    ),
    *(
        Refused(name=f"Content-Length {value!r}", sent=sized(value))
        for value in (b"+3", b"-3", b"0x3", b"3.0", b"1e1", b"", b"3 0", b"3;", b"\xb2", b"9" * 30, b"3\x00", b'"3"')
    ),
    *(
        Refused(name=f"Transfer-Encoding {value!r}", sent=coded(value), statuses=_CODING)
        for value in (
            b"gzip, chunked",
            b"chunked, identity",
            b"chunked, gzip",
            b"chunked, chunked",
            b"xchunked",
            b"chunkedx",
            b"identity",
            b"gzip",
            b"",
            b"chunked;q=1",
            b'"chunked"',
            b"chunked\x00",
            b"\x0bchunked",
            b", chunked",
            b"chunked\t",
            b"chunked,",
        )
    ),
    Refused(
        name="two Transfer-Encodings",
        sent=post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=_END),
        statuses=_CODING,
    ),
    Refused(
        name="two equal Transfer-Encodings",
        sent=post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=_END),
        statuses=_CODING,
    ),
    Refused(name="a space before the colon", sent=post(b"Content-Length : 3", body=b"abc")),
    Refused(name="a tab before the colon", sent=post(b"Content-Length\t: 3", body=b"abc")),
    Refused(name="a folded header", sent=post(b"X: a\r\n b")),
    Refused(name="a folded Transfer-Encoding", sent=post(b"Transfer-Encoding:\r\n chunked", body=_END)),
    Refused(name="a space before the first header", sent=post(host=b" Host: localhost\r\n")),
    Refused(name="a bare LF in the head", sent=post(b"X: a\nY: b")),
    Refused(name="bare LFs only", sent=post().replace(b"\r\n", b"\n")),
    Refused(name="a bare CR in the head", sent=post(b"X: a\rY: b")),
    Refused(name="a NUL in a value", sent=post(b"X: a\x00b")),
    Refused(name="a control character in a value", sent=post(b"X: a\x01b")),
    Refused(name="a DEL in a value", sent=post(b"X: a\x7fb")),
    *(
        Refused(name=f"the header name {value!r}", sent=post(value + b": 1"))
        for value in (b"", b"a b", b"a(", b"\xff", b"a\x00", b"a@", b"a/b", b"[a]", b'"a"')
    ),
    Refused(name="a header without a colon", sent=post(b"Transfer-Encoding chunked")),
    *(
        Refused(name=f"the version {value!r}", sent=version(value), statuses=_VERSION)
        for value in (
            b"HTTP/2.0",
            b"HTTP/1.2",
            b"HTTP/3",
            b"HTTP/0.9",
            b"HTTP/1.10",
            b"HTTP/01.1",
            b"http/1.1",
            b"HTTP/1.1 ",
            b"HTTP/1.",
            b"HTTX/1.1",
            b"ICE/1.0",
            b"",
        )
    ),
    Refused(name="HTTP/0.9", sent=b"GET /livez\r\n", statuses=_VERSION),
    Refused(name="HTTP/2 with prior knowledge", sent=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", statuses=_VERSION),
    Refused(name="a TLS hello", sent=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    Refused(
        name="Transfer-Encoding in HTTP/1.0",
        sent=post(b"Transfer-Encoding: chunked", line=b"POST /echo HTTP/1.0\r\n", body=_END),
    ),
    Refused(name="CONNECT", sent=post(line=b"CONNECT localhost:80 HTTP/1.1\r\n"), statuses=frozenset({400, 405, 501})),
    Refused(
        name="CONNECT with a body",
        sent=post(_LENGTH, line=b"CONNECT localhost:80 HTTP/1.1\r\n", body=_SMUGGLED),
        statuses=frozenset({400, 405, 501}),
    ),
    *(
        Refused(name=f"the target {value!r}", sent=target(value))
        for value in (
            b"localhost:80",
            b"livez",
            b"http://other/livez",
            b"http://localhost:1/livez",
            b"ftp://localhost/livez",
            b"http://",
            b"*",
            b"/li vez",
            b"/livez\x01",
            b"/livez\x7f",
            b"/livez\tx",
            b"/livez#x",
            b"/livez?a#b",
            b"/livez\xc3\xb6",
            b"/%",
            b"/%zz",
            b"/%2",
            b"/%00",
            b"/livez%0a",
            b"/livez%0D",
            b"/livez%7f",
            b"/%ff",
            b"?x",
        )
    ),
    Refused(name="a tab in the request line", sent=post(line=b"GET\t/livez\tHTTP/1.1\r\n")),
    Refused(name="a space before the method", sent=b" " + post()),
    Refused(name="a method in lower case", sent=post(line=b"post /echo HTTP/1.1\r\n")),
    Refused(name="a method that nobody knows", sent=post(line=b"FETCH /echo HTTP/1.1\r\n")),
    *(
        Refused(name=f"the chunk {value!r}", sent=chunked(value))
        for value in (
            b"3 \r\nabc\r\n" + _END,
            b" 3\r\nabc\r\n" + _END,
            b"\t3\r\nabc\r\n" + _END,
            b"0x3\r\nabc\r\n" + _END,
            b"+3\r\nabc\r\n" + _END,
            b"-3\r\nabc\r\n" + _END,
            b"3_0\r\nabc\r\n" + _END,
            b"f" * 17 + b"\r\nabc",
            b"3\nabc\n0\n\n",
            b"3\r\nabcd\r\n" + _END,
            b"3\r\nabc0\r\n\r\n",
            b"\r\n3\r\nabc\r\n" + _END,
            b"3\rX\nabc\r\n" + _END,
            b"3;a\nb\r\nabc\r\n" + _END,
            b"3;a\rb\r\nabc\r\n" + _END,
            b"3;a=\x00\r\nabc\r\n" + _END,
            b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
            b"3\r\nabc\r\n0\r\nX: y\n\r\n\r\n",
            b"3\r\nabc\r\n0\r\n folded\r\n\r\n",
            b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
            b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
    ),
    Refused(name="an unknown expectation", sent=post(b"Expect: tea", b"Content-Length: 0"), statuses=frozenset({417})),
]

READ = [
    Read(name="no body", sent=post()),
    Read(name="a Content-Length", sent=sized(b"3"), body=b"abc"),
    Read(name="a Content-Length with zeros", sent=sized(b"003"), body=b"abc"),
    Read(name="chunks", sent=chunked(b"1\r\na\r\n2\r\nbc\r\n", _END), body=b"abc"),
    Read(name="Chunked", sent=coded(b"Chunked"), body=b"abc"),
    Read(name="spaces around chunked", sent=coded(b"\t chunked "), body=b"abc"),
    Read(name="chunk extensions", sent=chunked(b'3;a=b;c="d e"\r\nabc\r\n', _END), body=b"abc"),
    Read(name="a chunk size with zeros", sent=chunked(b"000000000000000000003\r\nabc\r\n", _END), body=b"abc"),
    Read(name="trailers", sent=chunked(b"3\r\nabc\r\n0\r\nHost: other\r\nAuthorization: x\r\n\r\n"), body=b"abc"),
    Read(name="Upgrade to h2c, Content-Length", sent=post(*_UPGRADE, _LENGTH, body=_SMUGGLED), body=_SMUGGLED),
    Read(
        name="Upgrade to h2c, chunked",
        sent=post(*_UPGRADE, b"Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n" % (len(_SMUGGLED), _SMUGGLED) + _END),
        body=_SMUGGLED,
    ),
    Read(
        name="Upgrade to websocket",
        sent=post(b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", _LENGTH, body=_SMUGGLED),
        body=_SMUGGLED,
    ),
    Read(name="Upgrade in two headers", sent=post(b"Upgrade: a", b"Upgrade: b", b"Connection: upgrade")),
    Read(name="Upgrade, no body", sent=post(*_UPGRADE)),
    Read(
        name="Upgrade, close",
        sent=post(b"Connection: close, Upgrade", b"Upgrade: h2c", _LENGTH, body=_SMUGGLED),
        body=_SMUGGLED,
        closes=True,
    ),
    Read(name="Connection: Upgrade alone", sent=post(b"Connection: Upgrade", _LENGTH, body=_SMUGGLED), body=_SMUGGLED),
    Read(name="Upgrade alone", sent=post(b"Upgrade: h2c", _LENGTH, body=_SMUGGLED), body=_SMUGGLED),
    Read(
        name="Upgrade in HTTP/1.0",
        sent=post(*_UPGRADE, _LENGTH, line=b"POST /echo HTTP/1.0\r\n", body=_SMUGGLED),
        body=_SMUGGLED,
        closes=True,
    ),
    Read(name="HTTP/1.0", sent=b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", body=b"abc", closes=True),
    Read(
        name="HTTP/1.0 that would stay",
        sent=post(b"Connection: keep-alive", b"Content-Length: 3", line=b"POST /echo HTTP/1.0\r\n", body=b"abc"),
        body=b"abc",
        closes=True,
    ),
    Read(name="Connection: close", sent=post(b"Connection: close"), closes=True),
    # The parser does not tell us RTSP from HTTP, and reads a message of it by the same rules.
    Read(name="RTSP", sent=post(line=b"POST /echo RTSP/1.0\r\n"), closes=True),
    Read(name="the absolute form", sent=post(line=b"POST http://LOCALHOST/echo HTTP/1.1\r\n")),
    Read(name="an escape in the target", sent=post(line=b"POST /%65cho HTTP/1.1\r\n")),
    Read(name="empty lines before the request", sent=b"\r\n\r\n" + post()),
    Read(name="a value in Latin-1", sent=post(b"X: \xe9")),
    Read(name="two headers that are lists", sent=post(b"Accept: a", b"Accept: b")),
    Read(name="a Host with a port", sent=post(host=b"Host: localhost:8000\r\n")),
    Read(name="an IPv6 Host", sent=post(host=b"Host: [::1]:8000\r\n")),
]
