"""No page of another site may call a port that asks for no key; programs may."""

from typing import Any

import pytest

from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import LocalGuard, foreign_host, foreign_site
from inferlane.runtime.service_settings import ApiSettings
from inferlane.runtime.settings import PortSettings
from producer_api.http.auth import authenticated

NONE = frozenset[str]()


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def status_of(guarded: Any, method: str, headers: dict[str, str]) -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await guarded({"type": "http", "method": method, "path": "/v1/traffic-split", "headers": raw}, None, send)
    return int(sent[0]["status"])


HERE = {"host": "localhost:8000"}


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", HERE, 200),
        ("POST", {"host": "127.0.0.1:8000"}, 200),
        ("POST", {"host": "[::1]:8000"}, 200),
        ("POST", {"host": "LOCALHOST"}, 200),
        ("POST", {}, 200),
        ("GET", HERE | {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 200),
        ("POST", HERE | {"origin": "http://localhost:8000"}, 200),
        ("POST", HERE | {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, 200),
        ("POST", {"host": "localhost", "origin": "http://localhost:80"}, 200),
        ("POST", HERE | {"sec-fetch-site": "none"}, 200),
        ("GET", {"host": "evil.example"}, 403),
        ("GET", {"host": "localhost.evil.example:8000"}, 403),
        ("GET", {"host": "127.0.0.1.evil.example"}, 403),
        ("GET", {"host": "[::1"}, 403),
        ("POST", {"host": "evil.example", "origin": "http://evil.example"}, 403),
        ("POST", HERE | {"origin": "https://evil.example", "content-type": "text/plain"}, 403),
        ("POST", HERE | {"sec-fetch-site": "cross-site"}, 403),
        ("POST", HERE | {"sec-fetch-site": "same-site"}, 403),
        ("POST", HERE | {"origin": "http://localhost:3000"}, 403),
        ("POST", HERE | {"origin": "https://localhost:80", "host": "localhost"}, 403),
        ("POST", HERE | {"origin": "null"}, 403),
        ("POST", HERE | {"origin": "http://["}, 403),
        ("POST", HERE | {"origin": "http://localhost:8000x"}, 403),
        ("POST", HERE | {"origin": ""}, 403),
        ("DELETE", HERE | {"origin": "https://evil.example"}, 403),
        ("PUT", HERE | {"origin": "https://evil.example"}, 403),
    ],
)
async def test_an_open_api_on_loopback_answers_programs_and_its_own_pages(
    method: str, headers: dict[str, str], status: int
) -> None:
    """Guards `LocalGuard` in `authenticated`; every call is 200 when it is taken out."""
    assert (
        await status_of(authenticated(app, load_settings().api, load_settings().ports, None), method, headers) == status
    )


async def test_a_name_that_the_settings_allow_is_answered() -> None:
    settings = load_settings(allowed_hosts="Models.example, other.example")
    guarded = authenticated(app, settings.api, settings.ports, None)
    assert await status_of(guarded, "GET", {"host": "models.example:8000"}) == 200
    assert await status_of(guarded, "GET", {"host": "evil.example"}) == 403


async def test_where_something_in_front_checks_who_calls_any_host_may_be_named() -> None:
    guarded = authenticated(app, ApiSettings(auth="off"), PortSettings(), None)
    assert await status_of(guarded, "POST", {"host": "models.example", "origin": "https://shop.example"}) == 200


async def test_what_is_no_call_passes() -> None:
    called: list[Any] = []

    async def note(scope: Any, *_: Any) -> None:
        called.append(scope)

    await LocalGuard(note, allowed_hosts=NONE)({"type": "lifespan"}, None, None)
    assert called == [{"type": "lifespan"}]


def test_a_reason_quotes_no_more_than_a_line() -> None:
    assert len(foreign_host("x" * 10_000, NONE) or "") < 300
    assert len(foreign_site("localhost", origin="x" * 10_000, site=None) or "") < 300
