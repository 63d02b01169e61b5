"""GET from one of our own ports, with the standard library alone, because it is called very often."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from inferlane.errors import UnavailableError

if TYPE_CHECKING:
    import ssl

_ANSWER_WITHIN_S = 5.0
# Health checks and metrics are smaller.
_MAX_HEAD_BYTES = 64 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}


async def local_get(base_url: str, path: str, *, tls: "ssl.SSLContext | None" = None) -> tuple[int, bytes]:
    """Return the status and the body, which our ports send with its length and never in chunks.

    `tls` is the context of a connection to an `https` URL.

    Raises:
        UnavailableError: nobody answers, or the answer is not HTTP.
    """
    url = f"GET {base_url}{path}"
    address = urlsplit(base_url)
    request = f"GET {path} HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(
                address.hostname, address.port or DEFAULT_PORTS[address.scheme], limit=_MAX_HEAD_BYTES, ssl=tls
            )
            try:
                writer.write(request.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read()
            finally:
                writer.close()
        return int(head.split(maxsplit=2)[1]), body
    except TimeoutError as error:
        raise UnavailableError(f"{url}: no answer within {_ANSWER_WITHIN_S:g} s") from error
    except ConnectionRefusedError as error:
        raise UnavailableError(f"{url}: no answer (nothing listens there)") from error
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        raise UnavailableError(f"{url}: no answer ({str(error) or type(error).__name__})") from error
