"""The ASGI application of an API that waits for a part: health, and 503 for everything else."""

from typing import TYPE_CHECKING, Any

from inferlane.errors import UnavailableError
from inferlane.runtime.http.problem import CONTENT_TYPE
from inferlane.runtime.ops import health_body
from producer_api.asgi import send_answer
from producer_api.problems import problem_of

if TYPE_CHECKING:
    from inferlane.runtime.starting import Startup


class StartingApp:
    """Answers for `startup` until it is told of the application that serves."""

    def __init__(self, startup: "Startup") -> None:
        self._startup = startup
        self._checks = {"/livez": startup.live, "/readyz": startup.ready}
        self._app: Any = None

    def serve(self, app: Any) -> None:
        """Hand every call to `app` from now on."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._refuse(scope["path"], send)

    async def _refuse(self, path: str, send: Any) -> None:
        if (checks := self._checks.get(path)) is not None:
            status, body = health_body(checks())
            await send_answer(send, status, body, b"application/json")
            return
        error = UnavailableError(f"the API does not serve yet, {self._startup.reason}")
        status, body, headers = problem_of(error)
        extra = tuple((name.encode(), value.encode()) for name, value in headers.items())
        await send_answer(send, status, body, CONTENT_TYPE.encode(), extra)
