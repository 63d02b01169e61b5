"""Java's own HTTP client, with nothing set: its first POST asks for an upgrade to HTTP/2, which we do not serve."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from producer_api.http.asgi import PlainResponse, header
from producer_api.http.request_body import read_body

SOURCE = Path(__file__).parent / "java" / "Post.java"
LIMIT_BYTES = 2_000_000


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length of the body, and whether an upgrade was asked for."""
    body = await read_body(scope, receive, LIMIT_BYTES)
    asked = header(scope, b"http2-settings") is not None
    await PlainResponse(200, b"%d %d" % (len(body), asked), b"text/plain").send(send)


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK here; CI has one")
async def test_every_post_of_javas_default_client_is_read_whole() -> None:
    """Guards `without_upgrade`; fails (the bodies are read as requests) when `_ignored_upgrade` is never set."""
    async with serve_http(
        count, load_settings().ports, max_body_bytes=load_settings().kafka.max_body_bytes, host="127.0.0.1", port=0
    ) as port:
        java = await asyncio.create_subprocess_exec(
            "java", str(SOURCE), f"http://127.0.0.1:{port}/", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await java.communicate()
    answers = [line.split(" ") for line in output.decode().splitlines()]
    assert [(status, version, length) for status, version, length, _ in answers] == [
        ("200", "HTTP_1_1", str(size)) for size in (1, 60_000, 80_000, 100_000, 1_000_000)
    ]
    assert answers[0][3] == "1", "the client did not ask for an upgrade: this tests nothing"
