"""One run: the API, the proxies in front of it, clients and attackers through each, and what came of it."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from unittest import mock

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inferlane.runtime.api_keys import Scope
from tests.http_fuzz.clients import Tally, ask_for_ever, attack_for_ever
from tests.http_fuzz.proxies import haproxy, nginx
from tests.support.running_api import SHORT_WAITS, running_api

PROXIES = {"nginx": nginx, "haproxy": haproxy}
_CLIENTS = 6
_ATTACKERS = 6
_LOOK_S = 0.5


async def fuzz(*, limit_s: float, seed: int, stop_at_leak: bool = True) -> Mapping[str, Tally]:
    """Fuzz for that long through every proxy, or until an answer reaches somebody else."""
    tallies = {name: Tally() for name in PROXIES}
    async with _proxied_api() as (ports, key), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(coroutine)
            for name, tally in tallies.items()
            for number in range(_CLIENTS)
            for coroutine in (
                ask_for_ever(ports[name], key, number, tally),
                attack_for_ever(ports[name], key, number, tally, random.Random(f"{seed} {name} {number}")),
            )
        ]
        until_s = asyncio.get_running_loop().time() + limit_s
        while asyncio.get_running_loop().time() < until_s:
            if stop_at_leak and any(tally.leaks for tally in tallies.values()):
                break
            await asyncio.sleep(_LOOK_S)
        for task in tasks:
            task.cancel()
    return tallies


async def fuzz_stock_server(*, limit_s: float, seed: int) -> Mapping[str, Tally]:
    """The same against uvicorn's own protocol: what finds nothing there finds nothing anywhere."""
    with mock.patch("inferlane.runtime.http.server.limited_protocol", return_value=HttpToolsProtocol):
        return await fuzz(limit_s=limit_s, seed=seed)


@asynccontextmanager
async def _proxied_api() -> AsyncIterator[tuple[dict[str, int], str]]:
    """Yields the port of each proxy by its name, and a key of the API."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scopes = {"tester": Scope.ADMIN}
        api = await stack.enter_async_context(running_api(folder, scopes=scopes, **SHORT_WAITS))
        api_port = api.settings.api.port
        ports = {name: await stack.enter_async_context(proxy(folder, api_port)) for name, proxy in PROXIES.items()}
        yield ports, api.keys["tester"]
