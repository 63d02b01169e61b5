"""What a call may hold before its message is there, and what calls without a key may hold at all.

gRPC bounds the number of calls alone, so that one client without a key could keep all the others out.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

# Of calls without a key whose message has not come, at one time. Past it the oldest one ends: a probe that sends its
# message with its call is always served, however many others hold theirs back.
MAX_UNREAD_CALLS = 500
# Of streams that need no key (`Watch`, reflection), at one time and of one connection.
MAX_OPEN_STREAMS = 200
MAX_STREAMS_OF_CONNECTION = 16
# How long a drain waits for messages that are on their way.
_LAST_MESSAGE_S = 2.0


class _Wait:
    """A call that waits for a message. `end` is what it is told if that does not come."""

    def __init__(self, ends: asyncio.Timeout, end: tuple[grpc.StatusCode, str]) -> None:
        self._ends = ends
        self.end = end

    def end_in(self, seconds: float, code: grpc.StatusCode, message: str) -> None:
        """Wait for at most so many seconds from now on."""
        at_s = asyncio.get_running_loop().time() + seconds
        when_s = self._ends.when()
        if not self._ends.expired() and (when_s is None or at_s < when_s):
            self.end = (code, message)
            self._ends.reschedule(at_s)


class CallLimits(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Reads the messages of calls for their methods. One event loop.

    Every method becomes one that takes a stream, which is the same to clients: gRPC itself waits for the message of a
    call that is none for as long as the client likes.
    """

    def __init__(self, keyed: Collection[str], *, message_timeout_s: float) -> None:
        """`keyed` are the paths of the methods that have checked a key when they are found."""
        self._keyed = frozenset(keyed)
        self._timeout_s = message_timeout_s
        self._late = (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"no message came within {message_timeout_s:g} s (INFERLANE_BODY_TIMEOUT_S); send it with the call",
        )
        # In the order in which they came.
        self._unread: dict[_Wait, None] = {}
        self._unread_keyed: dict[_Wait, None] = {}
        self._streams: Counter[str] = Counter()
        self._is_draining = False
        # Methods are bound once for each caller.
        self._limited: dict[Any, Any] = {}

    def drain(self) -> None:
        """End what waits for a message: it has no work that was accepted."""
        self._is_draining = True
        for wait in (*self._unread, *self._unread_keyed):
            wait.end_in(_LAST_MESSAGE_S, *_STOPS)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return what handles the call within the limits; None if there is no such method."""
        handler = await continuation(handler_call_details)
        # A handler of a stream with one response is that of a refusal, which reads nothing and is made for one call.
        if handler is None or (handler.request_streaming and not handler.response_streaming):
            return handler
        if (held := self._limited.get(handler)) is None:
            has_key = handler_call_details.method in self._keyed
            held = self._limited[handler] = self._limit(handler, self._unread_keyed if has_key else self._unread)
        return held

    def _limit(self, handler: Any, waits: dict[_Wait, None]) -> Any:
        codecs = handler.request_deserializer, handler.response_serializer
        if not handler.response_streaming:

            async def answer(_messages: Any, context: Any) -> Any:
                return await handler.unary_unary(await self._only_message(context, waits), context)

            return grpc.stream_unary_rpc_method_handler(answer, *codecs)

        async def stream(_messages: Any, context: Any) -> AsyncIterator[Any]:
            if (refused := self._refused(context.peer())) is not None:
                await context.abort(*refused)
            with self._counted(context.peer()):
                if handler.request_streaming:
                    answers = handler.stream_stream(self._messages(context, waits), context)
                else:
                    answers = handler.unary_stream(await self._only_message(context, waits), context)
                async with aclosing(answers):
                    async for each in answers:
                        yield each

        return grpc.stream_stream_rpc_method_handler(stream, *codecs)

    def _refused(self, connection: str) -> tuple[grpc.StatusCode, str] | None:
        if self._streams[connection] >= MAX_STREAMS_OF_CONNECTION:
            limit = f"{MAX_STREAMS_OF_CONNECTION} of one connection"
        elif self._streams.total() >= MAX_OPEN_STREAMS:
            limit = f"{MAX_OPEN_STREAMS} of one process"
        else:
            return None
        return _EXHAUSTED, f"too many streams are open, the limit is {limit}; end another one, or call Health/Check"

    @contextmanager
    def _counted(self, connection: str) -> Iterator[None]:
        self._streams[connection] += 1
        try:
            yield
        finally:
            self._streams[connection] -= 1
            if not self._streams[connection]:
                del self._streams[connection]

    async def _messages(self, context: Any, waits: dict[_Wait, None]) -> AsyncIterator[Any]:
        while (message := await self._read(context, waits)) is not grpc.aio.EOF:
            yield message

    async def _only_message(self, context: Any, waits: dict[_Wait, None]) -> Any:
        message = await self._read(context, waits)
        if message is grpc.aio.EOF:
            # The code that gRPC has for it ("Status codes and their use in gRPC").
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the call has no message; send one")
        return message

    async def _read(self, context: Any, waits: dict[_Wait, None]) -> Any:
        """Return the next message, or EOF; end the call if none comes in time."""
        try:
            async with asyncio.timeout(self._timeout_s) as ends:
                wait = _Wait(ends, self._late)
                waits[wait] = None
                if self._is_draining:
                    wait.end_in(_LAST_MESSAGE_S, *_STOPS)
                if len(self._unread) > MAX_UNREAD_CALLS:
                    oldest = next(iter(self._unread))
                    del self._unread[oldest]
                    oldest.end_in(0.0, *_CROWDED_OUT)
                try:
                    return await context.read()
                finally:
                    waits.pop(wait, None)
        except TimeoutError:
            await context.abort(*wait.end)


_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_STOPS = grpc.StatusCode.UNAVAILABLE, "the API stops, and the message of the call has not come; send it again"
_CROWDED_OUT = (
    _EXHAUSTED,
    f"over {MAX_UNREAD_CALLS} calls without a key wait for their message; send it with the call",
)
