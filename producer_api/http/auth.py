"""Authentication and authorisation of every call, in front of the predict call and of FastAPI."""

import hmac
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from inferlane.errors import ConfigurationError, InferlaneError, UnavailableError, clipped
from inferlane.runtime.api_keys import ApiKey, Scope, digest_of, read_keys
from inferlane.runtime.http.direct_calls import DirectCycle, DirectHandler, direct_of
from inferlane.runtime.http.server import SAFE_METHODS, LocalGuard
from inferlane.runtime.logs import LastError
from inferlane.runtime.metrics.api_metrics import DENIED
from inferlane.runtime.runfile import is_loopback
from producer_api.http.asgi import (
    CALLER,
    EMBEDDINGS_PATH,
    INFER_PATH,
    PREDICT_PATH,
    SEES_ALL,
    V2_HEALTH_PATHS,
    V2_INDEX_PATH,
    header,
)
from producer_api.http.error_responses import ForbiddenError, UnauthorizedError
from producer_api.http.responses import error_response

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import PortSettings

# A revoked key may work for this long; each check costs one `stat`.
_CHECK_EVERY_S = 1.0
# Keys are looked up by the first bytes of their digest and then compared whole. Eight bytes of a digest reveal nothing
# of the key, and no two keys share them by chance.
_HEAD_BYTES = 8

_Stamp = tuple[int, int, int]
_Entry = tuple[bytes, ApiKey]


class KeyRing:
    """The API keys of one file, read again when the file changes. One event loop.

    Raises:
        ConfigurationError: the file is missing, empty or cannot be read.
    """

    def __init__(self, path: Path, *, clock: "Clock") -> None:
        self._path = path
        self._clock = clock
        # Of the file that was read; None from when it changes until it can be read.
        self._stamp = _stamp_of(path)
        self._error = LastError()
        self._entries: dict[bytes, _Entry] | None = _load(path)
        self._checked_s = clock.monotonic_s()

    def find(self, key: bytes) -> ApiKey | None:
        """Return the entry of a key that a client sent, or None if it is not valid.

        Raises:
            UnavailableError: the file has become unreadable; a revocation in it must not be missed.
        """
        self._follow_file()
        if self._entries is None:
            raise UnavailableError("the keys file cannot be read, so no key is good now; the log of the API says why")
        digest = digest_of(key)
        found = self._entries.get(digest[:_HEAD_BYTES])
        # Nobody can choose the head of a digest without the key; the rest is compared in constant time.
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]

    @property
    def is_readable(self) -> bool:
        """Return whether the file can be read: until it can, every call that needs a key is refused."""
        self._follow_file()
        return self._entries is not None

    def _follow_file(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._checked_s < _CHECK_EVERY_S:
            return
        self._checked_s = now_s
        stamp = _stamp_of(self._path)
        if stamp is not None and stamp == self._stamp:
            return
        # First of all: whatever reading raises, the keys of before are not good any more.
        self._entries = self._stamp = None
        try:
            self._entries = _load(self._path)
        except ConfigurationError as error:
            if self._error.is_news(error):
                log.error("keys_unreadable", path=str(self._path), error=str(error))  # noqa: TRY400 - the message says all
        else:
            self._stamp = stamp
            self._error.clear()
            log.info("keys_read", path=str(self._path), keys=[key.name for _, key in self._entries.values()])


def _load(path: Path) -> dict[bytes, _Entry]:
    entries = ((bytes.fromhex(key.sha256), key) for key in read_keys(path))
    return {digest[:_HEAD_BYTES]: (digest, key) for digest, key in entries}


def _stamp_of(path: Path) -> _Stamp | None:
    """Return a stamp that changes if the file is written, replaced or relinked (mounted secrets); None if missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


log = structlog.get_logger(__name__)

DOCS_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
"""The files that the documentation page loads, with their media types."""
DOCS_PATHS = ("/docs", "/docs/start.js", *(f"/docs/{name}" for name in DOCS_ASSETS))
# Open to probes, scrapers and readers of the documentation; none of them shows what clients send.
OPEN_PATHS = frozenset({"/livez", "/readyz", *V2_HEALTH_PATHS, "/metrics", "/openapi.json", *DOCS_PATHS})
_PREDICTIONS = "/v1/predictions/"
_SHADOWS = "/v1/shadows/"
_FEEDBACK = "/v1/feedback"
_SLASHES = re.compile("/+")
_BEARER = b"bearer"


def required_scope(method: str, path: str) -> Scope | None:
    """Return the scope that a call needs, or None if it is open to all. A write that is not listed needs `admin`."""
    if path in OPEN_PATHS:
        return None
    if path.startswith(_SHADOWS):
        # They show inputs of requests of all callers.
        return Scope.ADMIN
    if method in SAFE_METHODS or (method == "POST" and path in {PREDICT_PATH, EMBEDDINGS_PATH, _FEEDBACK}):
        return Scope.PREDICT
    # A slash too many in an infer call gets 404, not 403 for a scope that would not help.
    if method == "POST" and (INFER_PATH.fullmatch(_SLASHES.sub("/", path).rstrip("/")) or path == V2_INDEX_PATH):
        return Scope.PREDICT
    if method == "DELETE" and path.startswith(_PREDICTIONS):
        return Scope.PREDICT
    return Scope.ADMIN


def open_key_ring(api: "ApiSettings", *, clock: "Clock") -> KeyRing | None:
    """Return the keys in force, or None if the API is open: by an explicit setting, or on loopback without a keys file.

    Raises:
        ConfigurationError: the API would be open to the network without a setting that says so, or the keys file is
            not valid.
    """
    if api.auth == "off":
        log.warning("api_is_open", host=api.host, reason="INFERLANE_API_AUTH=off")
        return None
    if api.keys_file is not None:
        return KeyRing(api.keys_file, clock=clock)
    if not is_loopback(api.host):
        raise ConfigurationError(
            f"INFERLANE_API_HOST={api.host} can be reached from other machines and there are no API keys. "
            "Set INFERLANE_API_KEYS_FILE and make a key with `inferlane keys create`; or, where something in front "
            "checks who calls, set INFERLANE_API_AUTH=off."
        )
    return None


def authenticated(app: Any, api: "ApiSettings", ports: "PortSettings", keys: KeyRing | None) -> Any:
    """Wrap the app in authentication; without keys, on loopback, in a guard against pages of other sites."""
    if keys is not None:
        return KeyAuthentication(app, keys)
    if api.auth == "off":
        return app
    return LocalGuard(app, allowed_hosts=ports.known_hosts)


class KeyAuthentication:
    """Calls the app if the client's key allows it, else responds with 401 or 403."""

    def __init__(self, app: Any, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                self._authorize(scope)
            except InferlaneError as error:
                DENIED.labels(error.code).inc()
                await error_response(error, scope["path"]).send(send)
                return
        await self._app(scope, receive, send)

    def direct(self, scope: Any) -> DirectHandler | None:
        """Return what serves calls with this head directly, and checks the key at each; None if it has none."""
        handler, needed = direct_of(self._app, scope), required_scope(scope["method"], scope["path"])
        if handler is None or needed is None:
            return handler
        try:
            sent = sent_key(header(scope, b"authorization"), header(scope, b"x-api-key"))
        except UnauthorizedError:
            return None

        def serve_authorized(body: bytes, cycle: DirectCycle, caller: str = "") -> bool:
            try:
                caller = authorize(self._keys, sent, needed, call="").name
            except InferlaneError:
                # ASGI refuses it, and says why.
                return False
            return handler(body, cycle, caller)

        return serve_authorized

    def _authorize(self, scope: Any) -> None:
        """Return if the call is allowed, and note its caller in the scope.

        Raises:
            UnauthorizedError: the call has no key, or one that is not valid.
            ForbiddenError: the key lacks the scope.
            UnavailableError: the keys cannot be read.
        """
        needed = required_scope(scope["method"], scope["path"])
        if needed is None:
            return
        sent = sent_key(header(scope, b"authorization"), header(scope, b"x-api-key"))
        key = authorize(self._keys, sent, needed, call=f"{scope['method']} {clipped(scope['path'])}")
        scope[CALLER] = key.name
        scope[SEES_ALL] = key.may(Scope.ALL_REQUESTS)
        if needed is Scope.ADMIN:
            log.info("admin_call", key=key.name, method=scope["method"], path=scope["path"])


def authorize(keys: KeyRing, sent: bytes, needed: Scope, *, call: str) -> ApiKey:
    """Return the entry of a key that a client sent, if it allows the call, which `call` names.

    Raises:
        UnauthorizedError: the key is not valid.
        ForbiddenError: it lacks the scope.
        UnavailableError: the keys cannot be read.
    """
    key = keys.find(sent)
    if key is None:
        raise UnauthorizedError("the key is not known here, or was revoked; `inferlane keys list` has the names")
    if not key.may(needed):
        raise ForbiddenError(f"the key {key.name!r} has the scopes {', '.join(key.scopes)}; {call} needs {needed}")
    return key


def sent_key(authorization: bytes | None, api_key: bytes | None) -> bytes:
    """Return the key of a call that has these headers; `Authorization` counts where both are there.

    Raises:
        UnauthorizedError: the call has no key.
    """
    if authorization is None:
        key = (api_key or b"").strip()
    else:
        scheme, _, rest = authorization.strip().partition(b" ")
        if scheme.lower() not in {_BEARER, b""}:
            raise UnauthorizedError("the Authorization header is of another scheme; send `Authorization: Bearer <key>`")
        key = rest.strip()
    if not key:
        raise UnauthorizedError("the call has no key; send `Authorization: Bearer <key>`")
    return key
