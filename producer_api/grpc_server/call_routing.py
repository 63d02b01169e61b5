"""Which method serves a call. Its key is checked first; until the process serves, every call is refused."""

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from inferlane.errors import InferlaneError, UnavailableError, quoted
from inferlane.runtime.api_keys import Scope
from inferlane.runtime.metrics.api_metrics import DENIED, GRPC_CALLS
from producer_api.grpc_server.call_status import CallStatus, status_of_error
from producer_api.grpc_server.description_methods import DESCRIPTIONS, Description
from producer_api.grpc_server.infer_method import METHOD, InferMethod
from producer_api.grpc_server.protocol_messages import SERVICE, ServerLiveResponse, ServerReadyResponse
from producer_api.http.auth import authorize, sent_key
from producer_api.http.error_responses import UnauthorizedError, crash_error
from producer_api.routes.operations import live_checks, ready_checks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferlane.runtime.service import Startup
    from producer_api.http.auth import KeyRing
    from producer_api.routes.dependencies import Services

_PREFIX = f"/{SERVICE}/"
KEYED_PATHS = frozenset(_PREFIX + method for method in (METHOD, *DESCRIPTIONS))
"""The methods that need a key, where the API asks for one."""
# A proxy in front may look at another one of two than we do.
_KEYS = frozenset({"authorization", "x-api-key"})


class CallRouting(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Hands calls to their methods. One event loop."""

    def __init__(self, startup: "Startup", keys: "KeyRing | None") -> None:
        self._startup = startup
        self._keys = keys
        self._services: Services | None = None
        self._infer: InferMethod | None = None
        self._is_draining = False
        # Bound once for each method and caller; the names of keys bound them.
        self._bound: dict[tuple[str, str], Any] = {}
        self._open = {
            "ServerLive": grpc.unary_unary_rpc_method_handler(self._server_live),
            "ServerReady": grpc.unary_unary_rpc_method_handler(self._server_ready),
        }

    def serve(self, services: "Services", infer: InferMethod) -> None:
        """Serve every call from now on."""
        self._services, self._infer = services, infer

    def drain(self) -> None:
        """Say from now on that this process is not ready."""
        self._is_draining = True

    def is_ready(self) -> bool:
        """Whether this process can serve."""
        return not self._is_draining and self._services is not None and all(ready_checks(self._services).values())

    def service(self, handler_call_details: Any) -> Any:
        """Return what handles the call; None if there is no such method."""
        path: str = handler_call_details.method
        if not path.startswith(_PREFIX):
            return None
        method = path[len(_PREFIX) :]
        if (handler := self._open.get(method)) is not None:
            return handler
        if path not in KEYED_PATHS:
            return None
        try:
            caller = self._authorized(handler_call_details.invocation_metadata, path)
        except InferlaneError as error:
            DENIED.labels(error.code).inc()
            return _refusal(method, error)
        if self._services is None or self._infer is None:
            return _refusal(method, UnavailableError(f"the API does not serve yet, {self._startup.reason}"))
        held = self._bound.get((method, caller))
        if held is None:
            if method == METHOD:
                handler = partial(_answer_infer, self._infer, caller)
            else:
                handler = partial(_answer, method, DESCRIPTIONS[method], self._services)
            held = self._bound[method, caller] = grpc.unary_unary_rpc_method_handler(handler)
        return held

    def _authorized(self, metadata: "Iterable[tuple[str, str | bytes]] | None", path: str) -> str:
        """Return the name of the caller's key, or nothing where the API asks for none.

        Raises:
            UnauthorizedError: the call has no key, several, or one that is not valid.
            ForbiddenError: the key lacks the scope.
            UnavailableError: the keys cannot be read.
        """
        if self._keys is None:
            return ""
        sent: dict[str, bytes] = {}
        for name, value in metadata or ():
            if name in sent and name in _KEYS:
                raise UnauthorizedError(
                    f"the metadata have several {name}, so it is not clear whose call it is; send one"
                )
            sent[name] = value.encode() if isinstance(value, str) else value
        key = sent_key(sent.get("authorization"), sent.get("x-api-key"))
        return authorize(self._keys, key, Scope.PREDICT, call=quoted(path)).name

    async def _server_live(self, _raw: bytes, _context: Any) -> bytes:
        checks = self._startup.live() if self._services is None else live_checks(self._services)
        return bytes(ServerLiveResponse(live=all(checks.values())).SerializeToString())

    async def _server_ready(self, _raw: bytes, _context: Any) -> bytes:
        return bytes(ServerReadyResponse(ready=self.is_ready()).SerializeToString())


async def _answer_infer(infer: InferMethod, caller: str, raw: bytes, context: Any) -> bytes:
    return await _end(context, await infer(raw, context, caller))


async def _answer(method: str, describe: Description, services: "Services", raw: bytes, context: Any) -> bytes:
    try:
        status = CallStatus(200, body=await describe(services, raw))
    except Exception as error:  # noqa: BLE001 - a bug of ours gets a response too
        status = status_of_error(error if isinstance(error, InferlaneError) else crash_error(error))
    GRPC_CALLS.labels(method, status.code.name).inc()
    return await _end(context, status)


async def _end(context: Any, status: CallStatus) -> bytes:
    if status.code is not grpc.StatusCode.OK:
        await context.abort(status.code, status.message, status.trailers)
    return status.body


def _refusal(method: str, error: InferlaneError) -> Any:
    """Return what refuses a call without reading its message, which a stream would give piece by piece."""
    status = status_of_error(error)

    async def refuse(_messages: Any, context: Any) -> bytes:
        GRPC_CALLS.labels(method, status.code.name).inc()
        return await _end(context, status)

    return grpc.stream_unary_rpc_method_handler(refuse)
