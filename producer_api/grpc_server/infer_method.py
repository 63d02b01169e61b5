"""`ModelInfer`: each call goes through the queue as a call over HTTP does, with gRPC's deadline and cancellation.

A client that cancels, disconnects or whose deadline passes cancels its request in the queue, unless the call has an
idempotency key or a callback URL: whoever has the key may ask again, and the URL is called.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import Status
from inferlane.runtime.metrics.api_metrics import GRPC_CALLS
from producer_api.grpc_server.call_status import CallStatus, status_of_error, status_of_result, status_of_waiting
from producer_api.grpc_server.protocol_messages import SERVICE, InferRequest, parsed
from producer_api.http.error_responses import InvalidParameterError
from producer_api.http.request_body import BodyReservation
from producer_api.inference_protocol.infer_format import still_queued
from producer_api.predict.call_options import CallOrigin
from producer_api.predict.cancellation import ClientDisconnect
from producer_api.predict.endpoint import prediction_path
from producer_api.predict.exchange import Exchange
from producer_api.predict.telemetry import begin_rpc_span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferlane.runtime.tracing.spans import Tracing
    from producer_api.grpc_server.infer_messages import InferMessages
    from producer_api.http.request_body import BodyMemory
    from producer_api.predict.call import Call
    from producer_api.predict.exchange import Exchanges

METHOD = "ModelInfer"
# As of HTTP: parsing a larger message would block the event loop for longer than a whole call takes.
_READ_ON_LOOP_BYTES = 1024 * 1024


class _Metadata(NamedTuple):
    """What the metadata of a call say of it; keys are sent once, as HTTP's headers of the same names."""

    trace_parent: bytes | None
    idempotency_keys: tuple[bytes, ...]

    @classmethod
    def of(cls, metadata: "Iterable[tuple[str, str | bytes]] | None") -> "_Metadata":
        """Read the metadata of a call; None is a call without any."""
        found: dict[str, list[bytes]] = {}
        for name, value in metadata or ():
            if name in {TRACE_PARENT, "idempotency-key"}:
                found.setdefault(name, []).append(value.encode() if isinstance(value, str) else value)
        parents = found.get(TRACE_PARENT)
        return cls(parents[0] if parents else None, tuple(found.get("idempotency-key", ())))

    def idempotency_key(self) -> bytes | None:
        """Return the only key, or None.

        Raises:
            InvalidParameterError: there are several.
        """
        if len(self.idempotency_keys) > 1:
            raise InvalidParameterError(
                f"the metadata have idempotency-key {len(self.idempotency_keys)} times, so it is not clear which one "
                "counts; send it once"
            )
        return self.idempotency_keys[0] if self.idempotency_keys else None


class InferMethod:
    """Serves infer calls. One event loop."""

    def __init__(
        self,
        messages: "InferMessages",
        *,
        exchanges: "Exchanges",
        memory: "BodyMemory",
        tracing: "Tracing | None" = None,
    ) -> None:
        self._messages = messages
        self._exchanges = exchanges
        self._memory = memory
        self._tracing = tracing
        self._open: set[asyncio.Task[CallStatus]] = set()
        # One thread: it bounds the memory for messages that are parsed at one time.
        self._large_messages = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-messages")

    async def __call__(self, raw: bytes, context: Any, caller: str) -> CallStatus:
        """Serve one call; the server cancels this when the call is over for its client."""
        disconnect = ClientDisconnect()
        # A task of its own, so that it can still cancel its request in the queue when the call is over.
        work = asyncio.create_task(self._serve(raw, context, caller, disconnect))
        self._open.add(work)
        work.add_done_callback(self._open.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            disconnect.note()
            raise

    async def finish(self, within_s: float) -> None:
        """Return when nothing of any call is under way, or after `within_s`."""
        if self._open:
            await asyncio.wait(self._open, timeout=within_s)
        self._large_messages.shutdown(wait=False)

    async def _serve(self, raw: bytes, context: Any, caller: str, disconnect: ClientDisconnect) -> CallStatus:
        metadata = _Metadata.of(context.invocation_metadata())
        span = None if self._tracing is None else begin_rpc_span(self._tracing, SERVICE, METHOD, metadata.trace_parent)
        exchange = Exchange(metadata.trace_parent, span)
        reservation = BodyReservation(self._memory)
        try:
            reservation.add(len(raw))
            exchange.idempotency_key = metadata.idempotency_key()
            origin = CallOrigin(None, exchange.trace_parent, caller)
            read = partial(self._read, raw, origin, context.time_remaining(), exchange.idempotency_key is not None)
            if len(raw) <= _READ_ON_LOOP_BYTES:
                exchange.call, printed = read()
            else:
                exchange.call, printed = await asyncio.get_running_loop().run_in_executor(self._large_messages, read)
            status = await self._submit(exchange, printed, disconnect)
        except Exception as error:  # noqa: BLE001 - a bug of ours gets a response too
            status = status_of_error(self._exchanges.failure(exchange, error))
        finally:
            reservation.release()
        self._exchanges.end(exchange, status=status.http_status, **{"rpc.grpc.status_code": status.code.value[0]})
        GRPC_CALLS.labels(METHOD, status.code.name).inc()
        return status

    def _read(self, raw: bytes, origin: CallOrigin, left_s: float | None, is_keyed: bool) -> "tuple[Call, bytes]":
        """Return the call, and what must be the same in each call with one idempotency key."""
        request = parsed(InferRequest, raw)
        call = self._messages.read(request, origin, left_s=left_s)
        # The bytes as they came may differ: a map has no order.
        return call, b"grpc\0" + request.SerializeToString(deterministic=True) if is_keyed else b""

    async def _submit(self, exchange: Exchange, printed: bytes, disconnect: ClientDisconnect) -> CallStatus:
        # What is called back somebody else waits for.
        leaves_nobody = exchange.served_call().callback_url is None
        result = await self._exchanges.submit(
            exchange, fingerprinted=lambda: printed, disconnect=disconnect if leaves_nobody else None
        )
        call = exchange.served_call()
        if result is None:
            location = prediction_path(call.request_id)
            return status_of_waiting(still_queued(call), request_id=call.request_id, location=location)
        if result.status is not Status.SUCCEEDED:
            return status_of_result(result)
        return CallStatus(HTTPStatus.OK, body=self._messages.write(call, result))
