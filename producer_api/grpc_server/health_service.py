"""gRPC's health protocol: a server, and each service of it, serves as long as `GET /readyz` says so.

Source: gRPC, "Health Checking Protocol".
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferlane.errors import quoted

_CHECK_EVERY_S = 1.0
_Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Answers from `is_ready` at each call. One event loop."""

    def __init__(self, services: tuple[str, ...], is_ready: Callable[[], bool]) -> None:
        self._names = frozenset({"", *services})
        self._is_ready = is_ready
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Say from now on that nothing is served, and end every watch."""
        self._stopped.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the call
        """Whether the service serves now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is called {quoted(request.service)}")
        return self._now()

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the name of the call
        """The state of every service."""
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, self._now()))

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the name of the call
        """The state of the service now, and whenever it changes."""
        told = None
        is_known = request.service in self._names
        while True:
            state = self._now() if is_known else _Status(status=_Status.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield state
            if self._stopped.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._stopped.wait()

    def _now(self) -> Any:
        serves = self._is_ready() and not self._stopped.is_set()
        return _Status(status=_Status.SERVING if serves else _Status.NOT_SERVING)
