"""What a resource answers beside its documented methods: OPTIONS, HEAD, and which methods there are."""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.routing import BaseRoute, Route

from producer_api.asgi import send_answer


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> list[str]:
    """Every method of the resource, over all of its routes; empty if there is no such resource."""
    methods: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    if methods:
        methods |= {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return sorted(methods)


class AnyMethod:
    """Answers OPTIONS with the methods that a resource has, and HEAD as GET, whose body the server leaves out."""

    def __init__(self, app: Any, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
            elif scope["method"] == "OPTIONS" and (allowed := allowed_methods(self._routes, scope["path"])):
                headers = ((b"allow", ", ".join(allowed).encode()),)
                await send_answer(send, 200, b"", b"text/plain", headers)
                return
        await self._app(scope, receive, send)
