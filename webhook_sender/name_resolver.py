"""Look names up in a thread each, so that a name whose server does not answer holds up no other."""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

# Of the addresses in what the resolver returns, and of the numbers in these.
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class NameResolver(AbstractResolver):
    """The system's resolver, without the queue of a pool of threads. Used from one event loop.

    A lookup cannot be ended: its thread goes on after whoever waited has left, as long as the system lets it, and keeps
    no process from ending. Each call has one lookup at most, so calls bound the threads.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            OSError: it has none, or they cannot be found.
            UnicodeError: it is no name.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def deliver(addresses: list[Any], error: Exception | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: list[Any] = []
            failure: Exception | None = None
            try:
                addresses = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
                )
            except (OSError, UnicodeError) as error:
                failure = error
            # The event loop may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, addresses, failure)

        threading.Thread(target=look_up, name="lookup", daemon=True).start()
        return [_result(host, *address) for address in await found]

    async def close(self) -> None:
        """Nothing is kept."""


def _result(host: str, family: int, _kind: int, protocol: int, _name: str, address: Any) -> ResolveResult:
    literal, port, *rest = address
    # The scope of a link-local address is part of what is connected to.
    scope = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
    return ResolveResult(hostname=host, host=literal + scope, port=port, family=family, proto=protocol, flags=_NUMERIC)
