"""The ASGI application: predict and infer calls directly, every other call through FastAPI."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from inferlane import __version__
from inferlane.errors import DecodeError, InferlaneError, UnavailableError, clipped
from inferlane.runtime.http.direct_calls import DirectHandler, direct_of
from inferlane.runtime.ops import health_body
from producer_api.http.asgi import (
    EMBEDDINGS_PATH,
    PREDICT_PATH,
    V2_LIVE_PATH,
    V2_MODEL_PATH,
    V2_READY_PATH,
    V2_VERSION_PATH,
    HeadAndOptions,
    PlainResponse,
    allowed_methods,
)
from producer_api.http.auth import KeyRing, authenticated
from producer_api.http.error_responses import InvalidParameterError, crash_error
from producer_api.http.openapi import openapi
from producer_api.http.request_body import BodyMemory, BodyReservation, put_reservation, read_body
from producer_api.http.responses import as_fastapi, error_response, health_response, refusal_response
from producer_api.inference_protocol.infer_format import V2Format, is_infer
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.embeddings_format import EmbeddingsFormat
from producer_api.predict.endpoint import PredictEndpoint, V1Format
from producer_api.predict.predict_format import PredictFormat
from producer_api.routes import (
    docs_page,
    operations,
    predictions,
    protocol_metadata,
    rollouts,
    served_models,
    trial_reports,
)
from producer_api.routes.dependencies import Services

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from inferlane.runtime.service import Startup

log = structlog.get_logger(__name__)

ROUTE_MODULES = (docs_page, predictions, served_models, rollouts, operations, protocol_metadata, trial_reports)
"""Every module with routes of FastAPI's, in the order in which they are matched."""

# The limit of every call except the predict call: enough for a thousand weights with long names.
_MAX_SMALL_BODY_BYTES = 128 * 1024

# Only the first few faults of a body are named: a response that names 400,000 bad weights would have 50 MB.
_FAULTS_NAMED = 5

_DESCRIPTION = """Model predictions through a queue: a burst becomes backlog instead of errors.

Errors are problem documents (RFC 9457) that say what happened, the value, the limit and the remedy."""


def build_app(services: Services, keys: KeyRing | None = None) -> Any:
    """Build the ASGI app over these services, with authentication if there are `keys`."""
    app = FastAPI(
        title="Inferlane",
        version=__version__,
        description=_DESCRIPTION,
        # A redirect would lead to the host that the Host header of the call names.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    predict = _predict_endpoint(services, V1Format(services.reader, services.responses))
    infer = _predict_endpoint(services, V2Format(InferReader(services.settings.api, services.reader), services.catalog))
    embed = _predict_endpoint(services, EmbeddingsFormat(services.settings.api, services.reader))
    # Registered so that other methods get 405; `HotPath` serves POST before FastAPI sees it.
    app.router.routes.append(Route(PREDICT_PATH, predict, methods=["POST"]))
    app.router.routes.append(Route(EMBEDDINGS_PATH, embed, methods=["POST"]))
    for path in (V2_MODEL_PATH, V2_VERSION_PATH):
        app.router.routes.append(Route(f"{path}/infer", infer, methods=["POST"]))
    routes = [*app.router.routes]
    for module in ROUTE_MODULES:
        app.include_router(module.router)
        routes += module.router.routes
    app.state.all_routes = routes
    app.add_exception_handler(InferlaneError, _on_error)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    # The document lists models and versions, so it is made anew after a change of the catalogue.
    services.catalog.on_change(lambda _: setattr(app, "openapi_schema", None))
    app.openapi = lambda: openapi(  # type: ignore[method-assign]  # FastAPI's documented way to extend it
        app,
        services.catalog,
        services.settings.api,
        services.settings.outcomes,
        services.settings.webhooks,
        has_keys=keys is not None,
    )
    hot = {PREDICT_PATH: predict, EMBEDDINGS_PATH: embed}
    inner = HotPath(HeadAndOptions(app, routes), hot, infer=infer, held=services.body_memory)
    return authenticated(inner, services.settings.api, services.settings.ports, keys)


def _predict_endpoint(services: Services, call_format: PredictFormat) -> PredictEndpoint:
    return PredictEndpoint(
        services.settings.api,
        services.settings.kafka,
        call_format,
        exchanges=services.exchanges,
        tracing=services.tracing,
    )


class HotPath:
    """Serves hot endpoints before any middleware or routing, which would cost more than the call itself.

    Reads every other body within its limit, before FastAPI would read it without one.
    """

    def __init__(self, app: Any, hot: dict[str, Any], *, infer: Any = None, held: BodyMemory) -> None:
        """`hot` are endpoints by their path; `infer` is that of every model's infer call."""
        self._app = app
        self._hot = hot
        self._infer = infer
        self._held = held

    def __call__(self, scope: Any, receive: Any, send: Any) -> "Awaitable[None]":
        """Return what serves the call: as few coroutines as can be, for each step of the call passes through all."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        served: Awaitable[None] = (self._post if is_post else self._app)(scope, receive, send)
        return served

    def direct(self, scope: Any) -> DirectHandler | None:
        """Return what serves calls with this head directly; None if it is not that of a hot endpoint."""
        if scope["method"] != "POST":
            return None
        endpoint = self._hot.get(scope["path"]) or (self._infer if is_infer(scope["path"]) else None)
        handler: DirectHandler | None = None if endpoint is None else endpoint.direct(scope, self._held)
        return handler

    async def _post(self, scope: Any, receive: Any, send: Any) -> None:
        reservation = BodyReservation(self._held)
        put_reservation(scope, reservation)
        endpoint = self._hot.get(scope["path"]) or (self._infer if is_infer(scope["path"]) else self._serve_small)
        try:
            await endpoint(scope, receive, send)
        finally:
            reservation.release()

    async def _serve_small(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await read_body(scope, receive, _MAX_SMALL_BODY_BYTES, remedy="no call of this kind needs so much")
        except InferlaneError as error:
            await error_response(error, scope["path"]).send(send)
            return
        await self._app(scope, _replay(body, receive), send)


def _replay(body: bytes, receive: Any) -> Any:
    """Return a `receive` that gives the body that was read, then what follows it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return messages.pop() if messages else await receive()

    return receive_again


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, InferlaneError):
        log.error("call_crashed", exc_info=error)
        error = crash_error(error)
    return as_fastapi(error_response(error, request.url.path))


async def _on_invalid(request: Request, error: Exception) -> Response:
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    named = [
        f"{'.'.join(clipped(str(part), limit_chars=60) for part in fault['loc'])}: {clipped(fault['msg'])}"
        for fault in faults[:_FAULTS_NAMED]
    ]
    detail = "; ".join(named) + (f"; and {len(faults) - _FAULTS_NAMED} more" if len(faults) > _FAULTS_NAMED else "")
    # Pydantic reports a body that is not JSON with this type.
    is_json = all(fault["type"] != "json_invalid" for fault in faults)
    invalid = InvalidParameterError(detail) if is_json else DecodeError(detail)
    return as_fastapi(error_response(invalid, request.url.path))


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    detail = f"{request.method} {clipped(request.url.path)}: {error.detail}. GET /docs lists the calls."
    path = request.url.path
    response = as_fastapi(refusal_response(error.status_code, error.detail.lower().replace(" ", "_"), detail, path))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(allowed_methods(request.app.state.all_routes, path))
    return response


class StartingApp:
    """Responds on behalf of `startup` until the real application is ready."""

    def __init__(self, startup: "Startup") -> None:
        self._startup = startup
        self._checks = {"/livez": startup.live, "/readyz": startup.ready}
        self._v2_checks = {V2_LIVE_PATH: ("live", startup.live), V2_READY_PATH: ("ready", startup.ready)}
        self._app: Any = None

    def serve(self, app: Any) -> None:
        """Hand every call to `app` from now on."""
        self._app = app

    def __call__(self, scope: Any, receive: Any, send: Any) -> "Awaitable[None]":
        """Return what serves the call: no coroutine of its own, which each step of the call would pass through."""
        served: Awaitable[None] = self._refuse(scope, send) if self._app is None else self._app(scope, receive, send)
        return served

    def direct(self, scope: Any) -> DirectHandler | None:
        """Return what serves calls with this head directly; None until the application is ready."""
        return None if self._app is None else direct_of(self._app, scope)

    async def _refuse(self, scope: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if (checks := self._checks.get(path)) is not None:
            status, body = health_body(checks())
            await PlainResponse(status, body, b"application/json").send(send)
            return
        if (health := self._v2_checks.get(path)) is not None:
            name, check = health
            await health_response(name, check()).send(send)
            return
        error = UnavailableError(f"the API does not serve yet, {self._startup.reason}")
        await error_response(error, path).send(send)
