"""Plain ASGI: paths, headers, responses, and the methods that every resource answers."""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.routing import BaseRoute, Route

from inferlane.runtime.http.whole_response import WholeResponseCycle

PREDICT_PATH = "/v1/models/predict"
# Scope keys that the authentication sets. Both are absent where the API needs no keys.
# The name of the caller's key.
CALLER = "inferlane.caller"
# Whether that key may read and cancel the requests of others too; absent means yes.
SEES_ALL = "inferlane.sees_all"
# Scope key that `HeadAndOptions` sets for a HEAD, which the app sees as a GET; absent means no.
IS_HEAD = "inferlane.is_head"


class PlainResponse(NamedTuple):
    """A whole response. A named tuple, because the predict call builds one for each request."""

    status: int
    body: bytes
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Any) -> None:
        """Send it through an ASGI `send`."""
        cycle = None if self.headers else getattr(send, "__self__", None)
        if isinstance(cycle, WholeResponseCycle) and cycle.send_whole(self.status, self.content_type, self.body):
            return
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body)), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def header(scope: Any, name: bytes) -> bytes | None:
    """Return the first header with this lower-case name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> list[str]:
    """Return every method of a resource over all of its routes; empty if the resource does not exist."""
    methods: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    if methods:
        methods |= {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return sorted(methods)


class HeadAndOptions:
    """Answers OPTIONS with the methods of the resource, and HEAD as GET; the server omits the body."""

    def __init__(self, app: Any, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET", IS_HEAD: True}
            elif scope["method"] == "OPTIONS" and (allowed := allowed_methods(self._routes, scope["path"])):
                headers = ((b"allow", ", ".join(allowed).encode()),)
                await send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT.value, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)


EMBEDDINGS_PATH = "/v1/embeddings"
"""OpenAI's, whose clients read another form of errors."""

V2_ROOT = "/v2"
V2_LIVE_PATH, V2_READY_PATH = f"{V2_ROOT}/health/live", f"{V2_ROOT}/health/ready"
V2_HEALTH_PATHS = (V2_LIVE_PATH, V2_READY_PATH)
# Triton's and MLServer's model repository extension: a read, although it is a POST.
V2_INDEX_PATH = f"{V2_ROOT}/repository/index"
V2_MODEL_PATH, V2_VERSION_PATH = f"{V2_ROOT}/models/{{model}}", f"{V2_ROOT}/models/{{model}}/versions/{{version}}"

INFER_PATH = re.compile(rf"{V2_ROOT}/models/([^/]++)(?:/versions/([^/]++))?/infer", re.DOTALL)
"""The paths of the infer call: the model's name, and the version's where the path has one."""


def is_v2(path: str) -> bool:
    """Whether the path is one of the Open Inference Protocol."""
    return path == V2_ROOT or path.startswith(f"{V2_ROOT}/")
