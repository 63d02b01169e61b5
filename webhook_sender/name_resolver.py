"""Look names up in a thread each, so that a name whose server does not answer holds up no other."""

import asyncio
import socket
from collections import OrderedDict
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from inferlane.runtime.daemon_thread import in_daemon_thread

# Of the addresses in what the resolver returns, and of the numbers in these.
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

# The most lookups that have not ended, each of which has a thread; and those of names that had no address so far. A
# container may have no more than a few thousand threads.
_MOST_LOOKUPS = 1_024
_MOST_OF_NEW_NAMES = 768
# The most names that are remembered to have had an address.
_MOST_KNOWN = 10_000


class NameResolver(AbstractResolver):
    """The system's resolver, without the queue of a pool of threads. Used from one event loop.

    A lookup cannot be ended: its thread goes on after whoever waited has left, as long as the system lets it, and keeps
    no process from ending. So lookups have a bound of their own, and names that never had an address a share of it.
    """

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[list[Any]]] = set()
        self._known: OrderedDict[str, None] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            OSError: it has none, or they cannot be found, or too many lookups have not ended.
            UnicodeError: it is no name.
        """
        if len(self._under_way) >= (_MOST_LOOKUPS if host in self._known else _MOST_OF_NEW_NAMES):
            raise OSError(
                f"{len(self._under_way)} names are looked up already, and no name server answers; try again later"
            )
        look_up = partial(
            socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        lookup: asyncio.Task[list[Any]] = asyncio.create_task(in_daemon_thread(look_up, name="lookup"))
        self._under_way.add(lookup)
        lookup.add_done_callback(partial(self._note, host))
        try:
            # Whoever waits may leave; the lookup counts until it has ended.
            found = await asyncio.shield(lookup)
        except RuntimeError as error:
            raise OSError(f"no thread is left to look the name up: {error}") from error
        return [_result(host, *address) for address in found]

    def _note(self, host: str, lookup: "asyncio.Task[list[Any]]") -> None:
        """Note that a lookup has ended; a name that had an address is known."""
        self._under_way.discard(lookup)
        if lookup.cancelled() or lookup.exception() is not None:
            return
        self._known[host] = None
        self._known.move_to_end(host)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Nothing is kept."""


def _result(host: str, family: int, _kind: int, protocol: int, _name: str, address: Any) -> ResolveResult:
    literal, port, *rest = address
    # The scope of a link-local address is part of what is connected to.
    scope = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
    return ResolveResult(hostname=host, host=literal + scope, port=port, family=family, proto=protocol, flags=_NUMERIC)
