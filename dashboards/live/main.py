"""The dashboard process: the app, its static files and its parts."""

from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dashboards.live.api_client import ApiAnswer, ApiClient, Guard, refuse_open_network
from dashboards.live.dead_letter_tally import DeadLetterTally
from dashboards.live.observer import DeploymentObserver, Parts, SnapshotFeed
from inferlane.errors import InferlaneError, OverloadedError
from inferlane.runtime.http.api_address import ApiAddress
from inferlane.runtime.http.problem import CONTENT_TYPE
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.runfile import RunFile, is_loopback

if TYPE_CHECKING:
    import asyncio

    from inferlane.runtime.config import Settings

_STATIC = Path(__file__).with_name("static")
# A prediction may wait in the queue for its client's patience; the API limits that itself.
_PASS_ON_WITHIN_S = 75.0
_RESULT_WAIT_S = 20
_MAX_BODY_BYTES = 1024 * 1024
_PAGE_METHODS = "GET, HEAD"
# What the page may ask of the API: it is no proxy for anything else.
_PASSED_ON = {"/api/predict": "/v1/models/predict", "/api/traffic-split": "/v1/traffic-split"}


def build_app(
    feed: SnapshotFeed, api: ApiClient, *, loopback_only: bool, allowed_hosts: frozenset[str] = frozenset()
) -> Any:
    """Build the app for a feed and an API."""

    async def stream(_request: Request) -> Response:
        try:
            feed.refuse_if_full()
        except OverloadedError as error:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, error)
        return StreamingResponse(feed.events(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def change(request: Request) -> Response:
        return await _pass_on(api, request, _PASSED_ON[request.url.path], body=await _body(request))

    async def prediction(request: Request) -> Response:
        request_id = quote(request.path_params["request_id"], safe="")
        path = f"/v1/predictions/{request_id}?wait_s={_RESULT_WAIT_S}"
        return await _pass_on(api, request, path, body=None)

    ops = OpsApp(live=lambda: {"feed": feed.is_running}, ready=lambda: {"feed": feed.is_running})
    routes = [
        *(Route(path, ops) for path in ("/livez", "/readyz", "/metrics")),
        Route("/api/stream", stream),
        *(Route(path, change, methods=["POST"]) for path in _PASSED_ON),
        Route("/api/predictions/{request_id:str}", prediction),
        Mount("/", _Page(directory=_STATIC, html=True)),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _on_http})
    return Guard(app, loopback_only=loopback_only, allowed_hosts=allowed_hosts)


class _Page(StaticFiles):
    """The built page; a browser asks each time whether it has changed, or an upgrade would show half of the old one."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or 304."""
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise HTTPException(
                    413, f"the body is over {_MAX_BODY_BYTES} bytes; large requests go to the API itself"
                )
    except ClientDisconnect as error:
        # No error of ours, and nobody reads this answer.
        raise HTTPException(400, "the client went away before its body was complete") from error
    return body


async def _pass_on(api: ApiClient, request: Request, path: str, *, body: bytes | None) -> Response:
    """Forward the page's call with the key of its user, never with ours."""
    try:
        answer = await api.pass_on(
            request.method,
            path,
            body=body,
            authorization=request.headers.get("authorization"),
            wait_s=_PASS_ON_WITHIN_S,
        )
    except InferlaneError as error:
        return _problem(HTTPStatus.BAD_GATEWAY, error)
    return _response(answer)


def _response(answer: ApiAnswer) -> Response:
    return Response(
        answer.body,
        status_code=answer.status,
        media_type=answer.content_type,
        headers={"cache-control": "no-store"},
    )


def _problem(status: HTTPStatus, error: InferlaneError) -> Response:
    document = {"title": status.phrase, "status": status.value, "code": error.code, "detail": str(error)}
    return Response(msgspec.json.encode(document), status_code=status, media_type=CONTENT_TYPE)


async def _on_http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    document = {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code, "detail": error.detail}
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette says which methods a route has; of the page's files it does not.
        headers.setdefault("allow", _PAGE_METHODS)
    return Response(
        msgspec.json.encode(document), status_code=error.status_code, headers=headers, media_type=CONTENT_TYPE
    )


log = structlog.get_logger(__name__)

# An open page is told to go by the end of its stream; whoever does not go is cut off.
_STREAMS_END_WITHIN_S = 3


async def serve(settings: "Settings", stop: "asyncio.Event") -> None:
    """Serve the page until `stop` is set. No other part needs to run: the page says which is missing.

    Raises:
        ConfigurationError: the port is taken, or the page would be open to the network.
    """
    refuse_open_network(settings.api, settings.dashboard)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        api = ApiClient(session, ApiAddress(settings.api, settings.client), key=settings.client.key)
        backlog = BacklogReader(settings.kafka)
        stack.push_async_callback(backlog.close)
        letters = DeadLetterTally(settings.kafka, settings.stack.names, clock=clock)
        parts = Parts(
            api=api,
            backlog=backlog,
            letters=letters,
            run_file=RunFile(settings.stack.state_dir),
            names=settings.stack.names,
        )
        observer = DeploymentObserver(parts, clock=clock)
        feed = SnapshotFeed(observer.look, lambda: observer.history)
        app = build_app(
            feed,
            api,
            loopback_only=is_loopback(settings.dashboard.host),
            allowed_hosts=settings.ports.known_hosts,
        )
        http = serve_http(
            app,
            settings.ports,
            max_body_bytes=settings.kafka.max_body_bytes,
            host=settings.dashboard.host,
            port=settings.dashboard.port,
            timeout_graceful_shutdown=_STREAMS_END_WITHIN_S,
        )
        port = await stack.enter_async_context(http)
        feed.start()
        # Before the server, which waits for the streams that this ends.
        stack.push_async_callback(feed.close)
        log.info("dashboard_started", host=settings.dashboard.host, port=port, api=api.base_url)
        await stop.wait()
    log.info("dashboard_stopped")
