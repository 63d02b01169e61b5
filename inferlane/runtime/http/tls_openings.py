"""TLS connections until their handshake is complete: limited in time and number, as every other connection is.

asyncio tells a server of a TLS connection only after the handshake, and one that never completes it holds a socket too.
So each connection is accepted as it is, counted, and then upgraded.
"""

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sized

    from inferlane.runtime.http.connection_limits import Places


class TlsPort:
    """The open handshakes of one port, beside the connections that are `served`. Used from one event loop.

    `protocol` makes what serves a connection once its handshake is complete.
    """

    def __init__(
        self,
        context: "ssl.SSLContext",
        *,
        handshake_timeout_s: float,
        protocol: "Callable[[], asyncio.Protocol]",
        places: "Places",
        served: "Sized",
    ) -> None:
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._protocol = protocol
        self._places = places
        self._served = served
        self._handshakes: dict[asyncio.Task[None], asyncio.Transport] = {}

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was accepted."""
        return _Opening(self)

    def begin(self, opening: "_Opening", transport: asyncio.Transport) -> None:
        """Begin the handshake of a connection, or close it at once if there are far too many."""
        self._places.opening.add(opening)
        if self._places.are_overrun(len(self._served)):
            self._places.opening.discard(opening)
            transport.abort()
            return
        # The first bytes are those of the handshake.
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._upgrade(opening, transport))
        self._handshakes[task] = transport
        task.add_done_callback(self._handshakes.pop)

    def abort(self) -> None:
        """End the connections whose handshake is not complete: nothing was asked on them."""
        for transport in self._handshakes.values():
            transport.abort()

    async def _upgrade(self, opening: "_Opening", transport: asyncio.Transport) -> None:
        try:
            upgraded = await asyncio.get_running_loop().start_tls(
                transport, opening, self._context, server_side=True, ssl_handshake_timeout=self._handshake_timeout_s
            )
        except OSError:
            # Clients fail handshakes at any time, and the event loop has closed the connection.
            return
        finally:
            self._places.opening.discard(opening)
        if upgraded is not None:
            opening.hand_over(upgraded, self._protocol())


class _Opening(asyncio.Protocol):
    """One connection until its own protocol takes it over, a turn of the event loop after the handshake."""

    def __init__(self, port: TlsPort) -> None:
        self._port = port
        # What came in that turn, in its order.
        self._early: list[Callable[[asyncio.Protocol], object]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._port.begin(self, cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Keep the data."""
        self._early.append(lambda protocol: protocol.data_received(data))

    def eof_received(self) -> None:
        """Keep that the client has ended its side."""
        self._early.append(lambda protocol: protocol.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep that the connection is gone."""
        self._early.append(lambda protocol: protocol.connection_lost(exc))

    def hand_over(self, upgraded: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Let the protocol serve the connection from now on, with what came before."""
        upgraded.set_protocol(protocol)
        protocol.connection_made(upgraded)
        for tell in self._early:
            tell(protocol)
