"""Probe a running stack over HTTP: a prediction through every hop."""

import math
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from pydantic import SecretStr

from control_plane.local.readiness import failing_of
from inferlane.contracts.wire.zero_rows import zero_row
from inferlane.errors import ConfigurationError, UnavailableError, clipped

if TYPE_CHECKING:
    import ssl

    from inferlane.contracts.wire.tensors import Signature
    from inferlane.runtime.http.api_address import ApiAddress
    from models.catalog import ModelVersion

_MORE_PATIENCE_S = 5.0


class UnansweredError(UnavailableError):
    """A call was accepted and not answered in time. Remedy: `inferlane doctor` names the hop that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A version and the smallest request for it: one row of zeros."""

    model: str
    version: str
    signature: "Signature"
    # The size of its files, by which it may share a process with others; infinite if it must not.
    shareable_bytes: float = math.inf

    @classmethod
    def of(cls, version: "ModelVersion") -> Self:
        """Return the target for a version of the catalogue. One on a GPU has its process for itself."""
        return cls(
            model=version.model,
            version=version.version,
            signature=version.signature,
            shareable_bytes=math.inf if version.execution.on_gpu else version.size_bytes,
        )

    def body(self, *, timeout_s: float) -> dict[str, Any]:
        """Return the JSON body of the request, pinned to the version."""
        return {
            "model": self.model,
            "version": self.version,
            "instances": [zero_row(self.signature)],
            "timeout_s": timeout_s,
        }


async def predict(api: "ApiAddress", target: Target, *, wait_s: float, api_key: SecretStr | None = None) -> float:
    """Send one request through every hop and return its duration in seconds.

    Raises:
        UnansweredError: not answered in time.
        ConfigurationError: the API wants a key, and `api_key` is none that is in force; or the file of its authority
            cannot be read.
        UnavailableError: no API, or another answer than a prediction; the message has it.
    """
    started_s = time.monotonic()
    body = target.body(timeout_s=wait_s)
    # The client waits longer than the server, so that it can tell a 202 from no answer.
    status, answer = await _call(
        "POST",
        f"{api.url}/v1/models/predict",
        tls=api.tls(),
        body=body,
        wait_s=wait_s + _MORE_PATIENCE_S,
        api_key=api_key,
    )
    _refuse_key(api, status)
    if status == HTTPStatus.ACCEPTED:
        raise UnansweredError(f"{target.model} {target.version} did not answer a probe within {wait_s:g} s")
    if status != HTTPStatus.OK:
        said = clipped(answer.decode(errors="replace"))
        raise UnavailableError(f"{target.model} {target.version} answered a probe with HTTP {status}: {said}")
    return time.monotonic() - started_s


async def check_key(api: "ApiAddress", api_key: SecretStr | None, *, wait_s: float) -> None:
    """Return if the API takes the key, or asks for none.

    Raises:
        ConfigurationError: as of `predict`.
        UnavailableError: no API.
    """
    status, _ = await _call("GET", f"{api.url}/v1/models", tls=api.tls(), wait_s=wait_s, api_key=api_key)
    _refuse_key(api, status)


def _refuse_key(api: "ApiAddress", status: int) -> None:
    if status == HTTPStatus.UNAUTHORIZED:
        raise ConfigurationError(
            f"{api.url} wants a key with the scope predict; make one with `inferlane keys create` and set "
            "INFERLANE_API_KEY"
        )


async def ask_readiness(api: "ApiAddress", *, wait_s: float) -> tuple[str, ...]:
    """Return the checks of the API that fail, as its clients reach it: behind a proxy too, and below a path.

    Raises:
        UnavailableError: no API, or another answer than checks.
        ConfigurationError: the file of its authority cannot be read.
    """
    url = f"{api.url}/readyz"
    status, body = await _call("GET", url, tls=api.tls(), wait_s=wait_s)
    return failing_of(url, status, body)


async def _call(
    method: str,
    url: str,
    *,
    tls: "ssl.SSLContext | None",
    wait_s: float,
    body: object = None,
    api_key: SecretStr | None = None,
) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=wait_s)
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key.get_secret_value()}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.request(method, url, json=body, ssl=tls or True) as answer,
        ):
            return answer.status, await answer.read()
    except TimeoutError as error:
        raise UnansweredError(f"{method} {url}: no answer within {wait_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        refused = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)
        reason = "nothing listens there" if refused else str(error) or type(error).__name__
        raise UnavailableError(f"{method} {url}: no answer ({reason})") from error
