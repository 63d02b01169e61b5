"""The body of an answer that another server sends us, up to a limit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp


async def read_up_to(answer: "aiohttp.ClientResponse", limit_bytes: int) -> bytes | None:
    """Return the whole body, None if it is longer than `limit_bytes`; what is left of it then stays unread.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: the answer stopped in the middle.
    """
    body = bytearray()
    # One `read` returns what has come so far, which may be less than there is.
    while chunk := await answer.content.read(limit_bytes + 1 - len(body)):
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)
