"""An ASGI application that answers with what it read, behind the HTTP edge of every port."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path and the body that were read."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = [name.decode() for name, _ in scope["headers"]]
    raw = json.dumps({"path": scope["path"], "body": body.decode("latin-1"), "headers": names}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


@asynccontextmanager
async def echoing(**settings: Any) -> AsyncIterator[int]:
    async with serve_http(
        echo,
        load_settings(**settings).ports,
        max_body_bytes=load_settings().kafka.max_body_bytes,
        host="127.0.0.1",
        port=0,
    ) as port:
        yield port
