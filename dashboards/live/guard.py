"""Who may speak to the dashboard, and what its page may load.

The page shows what a client of the API may not see (dead letters) and passes on calls that change the split; pages of
other sites are kept out as they are from the API (`inferlane.runtime.http.sites`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inferlane.errors import ConfigurationError
from inferlane.runtime.http.problem import CONTENT_TYPE, encode_problem
from inferlane.runtime.http.sites import SAFE_METHODS, foreign_host, foreign_site
from inferlane.runtime.loopback import is_loopback

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# Everything that the page needs comes from here; scripts and styles are files, nothing is inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def refuse_open_network(settings: "Settings") -> None:
    """Return if only this machine reaches the dashboard, or something in front checks who does.

    Raises:
        ConfigurationError: anybody on the network could read dead letters.
    """
    if settings.api_auth != "off" and not is_loopback(settings.dashboard_host):
        raise ConfigurationError(
            f"INFERLANE_DASHBOARD_HOST={settings.dashboard_host} can be reached from other machines, and the dashboard "
            "asks nobody who they are. Keep it on 127.0.0.1 and reach it through a tunnel or a proxy that checks; "
            "where something in front does so already, set INFERLANE_API_AUTH=off."
        )


class Guard:
    """Calls the app for calls that may be made, and adds what the browser must be told to every answer."""

    def __init__(self, app: Any, *, loopback_only: bool, allowed_hosts: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._loopback_only = loopback_only
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        reason = refusal(scope["method"], headers, loopback_only=self._loopback_only, allowed_hosts=self._allowed_hosts)
        if reason is None:
            await self._app(scope, receive, send_guarded)
            return
        body = encode_problem(403, "forbidden", reason)
        answer = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        await send_guarded({"type": "http.response.start", "status": 403, "headers": answer})
        await send({"type": "http.response.body", "body": body})


def refusal(
    method: str, headers: Mapping[str, str], *, loopback_only: bool, allowed_hosts: frozenset[str] = frozenset()
) -> str | None:
    """Why a call may not be made, None if it may; header names are in lower case."""
    host = headers.get("host")
    if loopback_only and (reason := foreign_host(host, allowed_hosts)):
        return reason
    if method in SAFE_METHODS:
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if reason := foreign_site(host, origin=origin, site=site):
        return reason
    if site is None and origin is None:
        return "the call does not say where it comes from; programs speak to the API itself"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "the call's body is not application/json"
    return None
