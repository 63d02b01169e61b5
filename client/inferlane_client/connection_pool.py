"""The connections of a client, each with a pool of its own.

The pool of httpx looks at every connection and every waiting call whenever a call begins or ends: with 64 of them under
way that is most of the time of a call. A pool of one connection has nothing to look through.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

import httpx

_NO_ROOM = "all connections of the client are in use; give it more `connections`, or have fewer calls under way"
_CLOSED = "the client is closed; make another one"


class _Unpicklable:
    """What holds connections, which belong to one process."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client holds connections and cannot be pickled; make one in each process")


class ConnectionPool(_Unpicklable):
    """Connections for calls of any thread: `make` makes one, and at most `connections` are in use at a time."""

    def __init__(self, make: Callable[[], httpx.HTTPTransport], connections: int) -> None:
        self._make = make
        self._connections = connections
        self._is_closed = False
        self._begin()

    @contextmanager
    def send(self, request: httpx.Request, *, timeout_s: float) -> Iterator[httpx.Response]:
        """Send a request while the block runs, which reads the response.

        Raises:
            httpx.TransportError: there is no answer, or no connection was free in time.
            RuntimeError: the client is closed.
        """
        if self._is_closed:
            raise RuntimeError(_CLOSED)
        if self._process_id != os.getpid():
            # Forked: on a connection of the parent, each would read answers to calls of the other.
            self._begin()
        if not self._room.acquire(timeout=timeout_s):
            raise httpx.PoolTimeout(_NO_ROOM)
        connection: httpx.HTTPTransport | None = None
        try:
            connection = self._take()
            response = connection.handle_request(request)
            try:
                yield response
            finally:
                response.close()
        finally:
            if connection is not None:
                self._give_back(connection)
            self._room.release()

    def _begin(self) -> None:
        self._process_id = os.getpid()
        self._room = threading.Semaphore(self._connections)
        self._idle: list[httpx.HTTPTransport] = []

    def close(self) -> None:
        """Close the connections; those in use when their call ends."""
        self._is_closed = True
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.close()

    def _take(self) -> httpx.HTTPTransport:
        # The one that was used last: the others may close meanwhile.
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def _give_back(self, connection: httpx.HTTPTransport) -> None:
        self._idle.append(connection)
        if self._is_closed:
            self.close()


class AsyncConnectionPool(_Unpicklable):
    """As `ConnectionPool`, on one event loop."""

    def __init__(self, make: Callable[[], httpx.AsyncHTTPTransport], connections: int) -> None:
        self._make = make
        self._room = asyncio.Semaphore(connections)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._is_closed = False

    @asynccontextmanager
    async def send(self, request: httpx.Request, *, timeout_s: float) -> AsyncIterator[httpx.Response]:
        """Send a request while the block runs. Errors are those of `ConnectionPool.send`."""
        if self._is_closed:
            raise RuntimeError(_CLOSED)
        try:
            async with asyncio.timeout(timeout_s if self._room.locked() else None):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(_NO_ROOM) from error
        connection: httpx.AsyncHTTPTransport | None = None
        try:
            connection = self._idle.pop() if self._idle else self._make()
            response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._room.release()
            if connection is not None:
                await self._give_back(connection)

    async def close(self) -> None:
        """Close the connections; those in use when their call ends."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _give_back(self, connection: httpx.AsyncHTTPTransport) -> None:
        self._idle.append(connection)
        if self._is_closed:
            await self.close()
