"""Ask a process of ours whether it is ready or live."""

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from inferlane.errors import UNDECODABLE, UnavailableError, clipped
from inferlane.runtime.http.local_get import local_get

if TYPE_CHECKING:
    import ssl


class _Checks(msgspec.Struct):
    """The body of `/readyz`."""

    checks: dict[str, str] = {}


class HostedStatus(msgspec.Struct, frozen=True):
    """What a shared worker says of one of its versions."""

    state: str
    reason: str = ""


class _Hosted(msgspec.Struct):
    """The body of `/readyz` of a shared worker."""

    versions: dict[str, HostedStatus] = {}


async def is_ready(base_url: str) -> bool:
    """Return whether `/readyz` answers 200.

    Raises:
        UnavailableError: nobody answers.
    """
    status, _ = await local_get(base_url, "/readyz")
    return status == HTTPStatus.OK


async def is_live(base_url: str) -> bool:
    """Return whether `/livez` answers 200: its tasks run and its consumers move.

    Raises:
        UnavailableError: nobody answers.
    """
    status, _ = await local_get(base_url, "/livez")
    return status == HTTPStatus.OK


async def hosted_versions(base_url: str) -> dict[str, HostedStatus]:
    """Return what a shared worker says of its versions, each by `model/version`.

    Raises:
        UnavailableError: nobody answers, or not that.
    """
    _, body = await local_get(base_url, "/readyz")
    try:
        return msgspec.json.decode(body, type=_Hosted).versions
    except UNDECODABLE as error:
        raise UnavailableError(f"GET {base_url}/readyz: the answer is no JSON ({clipped(str(error))})") from error


async def failing_checks(base_url: str, *, tls: "ssl.SSLContext | None" = None) -> tuple[str, ...]:
    """Return the names of the checks of `/readyz` that fail.

    Raises:
        UnavailableError: nobody answers.
    """
    status, body = await local_get(base_url, "/readyz", tls=tls)
    return failing_of(f"{base_url}/readyz", status, body)


def failing_of(url: str, status: int, body: bytes) -> tuple[str, ...]:
    """Return the names of the checks that fail by the answer of `/readyz`.

    Raises:
        UnavailableError: the answer is another one.
    """
    try:
        checks = msgspec.json.decode(body, type=_Checks).checks
    except UNDECODABLE as error:
        raise UnavailableError(
            f"GET {url}: the answer is other JSON than checks, or none ({clipped(str(error))})"
        ) from error
    failing = tuple(name for name, value in checks.items() if value != "ok")
    return failing or (() if status == HTTPStatus.OK else (f"HTTP {status}",))
