"""Ask a process of ours whether it is ready or live, with nothing but the standard library: it is asked very often."""

import asyncio
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from inferlane.errors import UnavailableError, clipped

_ANSWER_WITHIN_S = 5.0
# What a process says of its checks is far smaller.
_MAX_ANSWER_BYTES = 1024 * 1024


class _Checks(msgspec.Struct):
    """The body of `/readyz`."""

    checks: dict[str, str] = {}


async def is_ready(base_url: str) -> bool:
    """Whether `/readyz` answers 200.

    Raises:
        UnavailableError: nobody answers.
    """
    status, _ = await _get(base_url, "/readyz")
    return status == HTTPStatus.OK


async def is_live(base_url: str) -> bool:
    """Whether `/livez` answers 200: its tasks run and its consumers move.

    Raises:
        UnavailableError: nobody answers.
    """
    status, _ = await _get(base_url, "/livez")
    return status == HTTPStatus.OK


async def failing_checks(base_url: str) -> tuple[str, ...]:
    """Return the names of the checks of `/readyz` that fail.

    Raises:
        UnavailableError: nobody answers.
    """
    status, body = await _get(base_url, "/readyz")
    try:
        checks = msgspec.json.decode(body, type=_Checks).checks
    except msgspec.DecodeError as error:
        raise UnavailableError(
            f"GET {base_url}/readyz: the answer is other JSON than checks, or none ({clipped(str(error))})"
        ) from error
    failing = tuple(name for name, value in checks.items() if value != "ok")
    return failing or (() if status == HTTPStatus.OK else (f"HTTP {status}",))


async def _get(base_url: str, path: str) -> tuple[int, bytes]:
    """The status and the body."""
    url = f"GET {base_url}{path}"
    address = urlsplit(base_url)
    request = f"GET {path} HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=_MAX_ANSWER_BYTES)
            try:
                writer.write(request.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read(_MAX_ANSWER_BYTES)
            finally:
                writer.close()
        return int(head.split(maxsplit=2)[1]), body
    except TimeoutError as error:
        raise UnavailableError(f"{url}: no answer within {_ANSWER_WITHIN_S:g} s") from error
    except ConnectionRefusedError as error:
        raise UnavailableError(f"{url}: no answer (nothing listens there)") from error
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        raise UnavailableError(f"{url}: no answer ({str(error) or type(error).__name__})") from error
