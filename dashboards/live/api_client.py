"""The dashboard's client of the API: reads for all pages, and calls that are forwarded for one user."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import msgspec

from inferlane.contracts.rollout import RolloutState
from inferlane.contracts.windows import WindowReport
from inferlane.errors import UNDECODABLE, ConfigurationError, UnavailableError
from inferlane.runtime.http.problem import send_problem
from inferlane.runtime.http.server import SAFE_METHODS, foreign_host, foreign_site
from inferlane.runtime.runfile import is_loopback

if TYPE_CHECKING:
    from pydantic import SecretStr

    from inferlane.runtime.http.api_address import ApiAddress
    from inferlane.runtime.service_settings import ApiSettings, DashboardSettings

# A page shows that the API is silent after this long; a busy machine answers later than an idle one.
_READ_WITHIN_S = 4.0

T = TypeVar("T")


class ApiTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a version; -1 is the row axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ApiVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version in `GET /v1/models`, with the fields that the page shows; `weight` is a share of 1."""

    version: str
    weight: float
    quantization: str
    size_bytes: int
    inputs: tuple[ApiTensor, ...]


class ApiModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in `GET /v1/models`."""

    name: str
    description: str
    default: bool
    versions: tuple[ApiVersion, ...]


class ApiUnusable(msgspec.Struct, frozen=True, kw_only=True):
    """A version, or with no version a whole model, that cannot be served."""

    model: str
    version: str | None
    reason: str


class ApiModelList(msgspec.Struct, frozen=True):
    """`GET /v1/models`."""

    models: tuple[ApiModel, ...]
    unusable: tuple[ApiUnusable, ...] = ()


class ApiRollouts(msgspec.Struct, frozen=True):
    """`GET /v1/rollouts`: the newest first."""

    rollouts: tuple[RolloutState, ...]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An example request of the API's documentation; without a model it is for the default one."""

    instances: list[Any]
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAnswer:
    """The API's answer to a forwarded call."""

    status: int
    content_type: str
    body: bytes


class ApiClient:
    """A client of one API. Our own key is only for reads: forwarded calls carry the key of their user, or none."""

    def __init__(self, session: aiohttp.ClientSession, address: "ApiAddress", *, key: "SecretStr | None") -> None:
        self._session = session
        self.base_url = address.url
        self._address = address
        self._headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}

    async def models(self) -> ApiModelList:
        """Return every model with its current weights, and what cannot be served.

        Raises:
            UnavailableError: no answer, or another one than expected.
            ConfigurationError: the API wants a key, and ours is none that is in force.
        """
        return await self._read("/v1/models", ApiModelList)

    async def report(self, model: str, version: str, *, window_s: float) -> WindowReport:
        """Return the report of a version over the last `window_s` seconds.

        Raises:
            UnavailableError, ConfigurationError: as `models`.
        """
        query = {"model": model, "window_s": f"{window_s:g}"}
        return await self._read(f"/v1/metrics/{version}", WindowReport, query)

    async def rollouts(self) -> tuple[RolloutState, ...]:
        """Return every rollout, the newest first, without its history.

        Raises:
            UnavailableError, ConfigurationError: as `models`.
        """
        return (await self._read("/v1/rollouts", ApiRollouts)).rollouts

    async def examples(self) -> tuple[Example, ...]:
        """Return the example requests of the API's documentation.

        Raises:
            UnavailableError: no answer, or a document without them.
        """
        document = await self._read("/openapi.json", dict[str, Any])
        try:
            examples = document["components"]["schemas"]["PredictRequest"]["examples"]
            return msgspec.convert(examples, tuple[Example, ...])
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise UnavailableError(
                f"{self.base_url}/openapi.json shows no example of a prediction: {error!r}"
            ) from error

    async def pass_on(
        self, method: str, path: str, *, body: bytes | None, authorization: str | None, wait_s: float
    ) -> ApiAnswer:
        """Forward a call for a user and return its answer, whatever it is.

        Raises:
            UnavailableError: no answer within `wait_s` seconds.
        """
        headers = {"content-type": "application/json"} if body is not None else {}
        if authorization is not None:
            headers["authorization"] = authorization
        status, content_type, raw = await self._call(method, path, wait_s=wait_s, headers=headers, data=body)
        return ApiAnswer(status=status, content_type=content_type, body=raw)

    async def _read(self, path: str, kind: type[T], query: dict[str, str] | None = None) -> T:
        status, _, raw = await self._call("GET", path, wait_s=_READ_WITHIN_S, headers=self._headers, params=query)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise ConfigurationError(
                f"the API refuses the dashboard's key (HTTP {status}). Make one with `inferlane keys create --name "
                "dashboard --scope predict` and start the dashboard with it in INFERLANE_API_KEY."
            )
        if status != HTTPStatus.OK:
            raise UnavailableError(f"GET {path} answered HTTP {status}")
        try:
            return msgspec.json.decode(raw, type=kind)
        except UNDECODABLE as error:
            raise UnavailableError(f"GET {path} answered something else than expected: {error}") from error

    async def _call(self, method: str, path: str, *, wait_s: float, **options: Any) -> tuple[int, str, bytes]:
        timeout = aiohttp.ClientTimeout(total=wait_s)
        try:
            async with self._session.request(
                method, self.base_url + path, timeout=timeout, ssl=self._address.tls() or True, **options
            ) as answer:
                return answer.status, answer.content_type, await answer.read()
        except TimeoutError as error:
            raise UnavailableError(f"the API at {self.base_url} did not answer within {wait_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise UnavailableError(f"the API at {self.base_url} does not answer ({reason})") from error


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


def refuse_open_network(api: "ApiSettings", dashboard: "DashboardSettings") -> None:
    """Return if only this machine reaches the dashboard, or something in front checks who does.

    Raises:
        ConfigurationError: anybody on the network could read dead letters.
    """
    if api.auth != "off" and not is_loopback(dashboard.host):
        raise ConfigurationError(
            f"INFERLANE_DASHBOARD_HOST={dashboard.host} can be reached from other machines, and the dashboard "
            "asks nobody who they are. Keep it on 127.0.0.1 and reach it through a tunnel or a proxy that checks; "
            "where something in front does so already, set INFERLANE_API_AUTH=off."
        )


class Guard:
    """ASGI middleware: reject forbidden calls, and add security headers to every answer."""

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
        await send_problem(send_guarded, 403, "forbidden", reason)


def refusal(
    method: str, headers: Mapping[str, str], *, loopback_only: bool, allowed_hosts: frozenset[str] = frozenset()
) -> str | None:
    """Return why a call is rejected, or None; header names are in lower case."""
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
