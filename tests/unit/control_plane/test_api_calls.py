"""Calls of our own commands to an API with keys: what a person is told who has none."""

import asyncio
from pathlib import Path

import pytest

from control_plane.cli.api_calls import ApiCalls
from inferlane.errors import ConfigurationError, InvalidRequestError
from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.server import serve_http
from inferlane.runtime.ops import OpsApp
from inferlane.runtime.retry import SystemClock
from producer_api.http.auth import KeyAuthentication, KeyRing


@pytest.mark.parametrize("has_key", [False, True])
async def test_a_refused_key_is_told_by_the_setting_that_it_comes_from(tmp_path: Path, has_key: bool) -> None:
    """The remedy was a header, which no command of ours takes."""
    file = tmp_path / "keys.toml"
    key = create_key(file, name="shop", scopes=[Scope.PREDICT])
    app = KeyAuthentication(OpsApp(live=dict, ready=dict), KeyRing(file, clock=SystemClock()))
    settings = load_settings()
    async with serve_http(app, settings.ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
        calls = ApiCalls(load_settings(api_url=f"http://127.0.0.1:{port}", api_key=key if has_key else None))
        with pytest.raises(InvalidRequestError, match="INFERLANE_API_KEY") as caught:
            await asyncio.to_thread(calls.post, "/v1/rollouts", {})
    assert ("needs admin" if has_key else "has no key") in str(caught.value)


async def test_another_server_at_the_address_of_the_api_is_told_by_the_setting() -> None:
    """The port of a router was said to refuse the call, with a reason of its own or none."""
    settings = load_settings()
    ops = OpsApp(live=dict, ready=dict)
    async with serve_http(ops, settings.ports, max_body_bytes=1024, host="127.0.0.1", port=0) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigurationError, match=f"{url} is no API of Inferlane.* INFERLANE_API_URL"):
            await asyncio.to_thread(ApiCalls(load_settings(api_url=url)).get, "/v1/rollouts")
