"""How many connections a process serves at once, and what the ones above that are told."""

import resource
from http import HTTPStatus
from typing import Any

from inferlane.runtime.http.problem import CONTENT_TYPE, encode_problem

# Without these a crowded process would be taken for a dead one and killed, which only moves the crowd.
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


def connection_limit(max_connections: int) -> int:
    """Return the limit, lowered to what the open files of this process allow.

    A quarter of the files is left for the broker, the store and the model; a process without one cannot even accept a
    connection to refuse it.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, soft * 3 // 4))


class ProbesOnly:
    """The app of a connection over the limit: it answers probes, and anything else with 503."""

    def __init__(self, app: Any, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        body = encode_problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too_many_connections",
            f"{self._limit} connections are open here, which is the limit; try again, or raise "
            "INFERLANE_MAX_CONNECTIONS and the limit of open files",
            retryable=True,
        )
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": HTTPStatus.SERVICE_UNAVAILABLE.value, "headers": headers})
        await send({"type": "http.response.body", "body": body})
