"""How a connection ends when its server stops: after an answer that says so, or when it was idle for a while.

A connection that is closed while it is idle may carry the next request of its client already, which is lost then. So
every request that still comes is answered, with `Connection: close`; the client opens its next connection elsewhere.
Source: RFC 9112, sections 9.3.1 and 9.6.
"""

from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from inferlane.runtime.http.connection_limits import CoalescingTransport

# How long a connection stays open without a request while the server stops. Less loses requests of clients that are
# far away or pause for a moment, more delays the end of a process whose clients keep idle connections.
_IDLE_S = 0.5


class DrainingProtocol(HttpToolsProtocol):
    """A connection with one timer, which ends without the loss of a request when its server stops."""

    # Whether the server stops. Set for the class that was made for the server.
    is_draining: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = self._in_body = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since_s = 0.0
        # Whose app was started last. Messages that came after it wait, while `cycle` is that of the last one.
        self._started: Any = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the app that runs; uvicorn tells the last message alone, whose app may not have been started."""
        if self._started is not None and not self._started.response_complete:
            self._started.disconnected = True
            self._started.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._started = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Let the answer under way, or else the next one, end the connection; end one that is idle soon."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._close_if_draining()
        elif not (self._in_head or self._in_body):
            self._start_timer(_IDLE_S, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """Go on with the next request; one that is not there yet is waited for only a moment while the server stops."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._await_request(self.timeout_keep_alive)
        if self.is_draining and not self.transport.is_closing():
            self.shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for too long."""
        cast("CoalescingTransport", self.transport).close_idle()

    def _await_request(self, seconds: float) -> None:
        # uvicorn starts a timer after each response and cancels it at each request, which costs both more.
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._on_keep_alive_timer)

    def _on_keep_alive_timer(self) -> None:
        self.timeout_keep_alive_task = None
        cycle: Any = self.cycle
        if self._in_head or self._in_body or not cycle.response_complete:
            # The response to come starts the next timer.
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._await_request(left_s)
        else:
            self.timeout_keep_alive_handler()

    def _close_if_draining(self) -> None:
        cycle: Any = self.cycle
        # A head that was sent already has promised that the connection stays open.
        if self.is_draining and not cycle.response_started:
            cycle.keep_alive = False

    def _start_timer(self, delay_s: float, on_timeout: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
