"""Connections: how many there are, which are used again, and what reaches the server over them; of both clients."""

import asyncio
import multiprocessing
import pickle
import threading
from typing import Any

import pytest

from inferlane_client import AsyncClient, CallError, Client, ConnectionFailed, Retries, TimedOut, UnexpectedAnswer
from tests.unit.client.conftest import QUICK, Ask, Scripted, ScriptedServer, Seen
from tests.unit.client.test_many import Echo, rows_of

MODELS = Scripted(document={"models": []})
ONCE = Retries(limit=0)
TIME_S = 30


def test_no_more_connections_are_used_than_the_client_may_have(server: ScriptedServer, ask: Ask) -> None:
    echo = Echo(together=3)
    server.answering = echo
    rows = [[n] for n in range(30)]
    answers = ask(server.url, lambda client: client.predict_many(rows, concurrency=10), connections=3)
    assert rows_of(answers) == list(range(30))
    assert echo.most_under_way == 3
    assert len({call.port for call in server.seen}) == 3


def test_a_connection_is_used_again(server: ScriptedServer, ask: Ask) -> None:
    server.answering = Echo()
    ask(server.url, lambda client: client.predict_many([[n] for n in range(10)], concurrency=1))
    assert len({call.port for call in server.seen}) == 1


def test_a_forked_process_has_connections_of_its_own(server: ScriptedServer) -> None:
    """On a shared one, the parent would read the answer to a call of its child, or the other way round."""
    server.answering = Echo()
    with Client(server.url) as client:
        client.predict([[1]])
        child = multiprocessing.get_context("fork").Process(target=client.predict, args=([[2]],))
        child.start()
        child.join(TIME_S)
        assert child.exitcode == 0
        client.predict([[3]])
    first, second, third = (call.port for call in server.seen)
    assert (first == third, first == second) == (True, False)


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_client_is_not_pickled_and_says_why(make: Any) -> None:
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(make())


@pytest.mark.parametrize("body", [b"no gzip", b""])
def test_an_answer_that_cannot_be_inflated_is_an_error_of_the_call(
    server: ScriptedServer, ask: Ask, body: bytes
) -> None:
    server.will(Scripted(document=body, headers={"content-encoding": "gzip"}))
    with pytest.raises(CallError):
        ask(server.url, lambda client: client.models(), retries=ONCE)


def test_an_answer_nested_without_end_is_an_unexpected_one(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(document=b"[" * 100_000))
    with pytest.raises(UnexpectedAnswer):
        ask(server.url, lambda client: client.predict([[1]]))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://", "needs a host"),
        ("http://[::1", "Invalid port"),
        ("http://here:99999", "a port from 1"),
        ("HTTPS://", "needs a host"),
    ],
)
def test_an_address_that_is_none_is_refused_at_once(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Client(url)


@pytest.mark.parametrize("key", ["", "clé", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused_at_once(key: str) -> None:
    with pytest.raises(ValueError, match="the API key"):
        AsyncClient(api_key=key)


def test_a_connection_that_was_cut_is_not_used_again(server: ScriptedServer, ask: Ask) -> None:
    server.will(MODELS, Scripted(), MODELS)
    assert ask(server.url, lambda client: client.models(), retries=QUICK) == ()
    assert ask(server.url, lambda client: client.models(), retries=QUICK, connections=1) == ()
    assert len(server.seen) == 3


class Holding:
    """Answers the first call once it `may_go`, and the others at once."""

    def __init__(self) -> None:
        self._is_held, self.may_go = threading.Event(), threading.Event()

    async def __call__(self, _: Seen) -> Scripted:
        if not self._is_held.is_set():
            self._is_held.set()
            await asyncio.to_thread(self.may_go.wait, TIME_S)
        return MODELS

    async def held(self) -> None:
        assert await asyncio.to_thread(self._is_held.wait, TIME_S)


def test_a_call_that_gets_no_connection_in_time_is_told(server: ScriptedServer) -> None:
    server.answering = holding = Holding()

    async def run() -> None:
        async with AsyncClient(server.url, connections=1, retries=ONCE, timeout_s=TIME_S) as client:
            first = asyncio.create_task(client.models())
            await holding.held()
            with pytest.raises(TimedOut):
                await client.predict([1], timeout_s=0)
            holding.may_go.set()
            assert await first == ()

    asyncio.run(run())
    assert [call.path for call in server.seen] == ["/v1/models"]


def test_a_call_that_is_cancelled_gives_its_connection_back(server: ScriptedServer) -> None:
    server.answering = holding = Holding()

    async def run() -> None:
        async with AsyncClient(server.url, connections=1, timeout_s=TIME_S) as client:
            first = asyncio.create_task(client.models())
            await holding.held()
            first.cancel()
            assert await client.models() == ()
            assert first.cancelled()
            holding.may_go.set()

    asyncio.run(run())


def test_a_client_that_is_closed_says_so(server: ScriptedServer) -> None:
    server.will(MODELS)
    client = Client(server.url)
    assert client.models() == ()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.models()

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            assert await client.models() == ()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.models()

    asyncio.run(run())


def test_a_client_without_connections_is_refused() -> None:
    with pytest.raises(ValueError, match="connections is 0; it must be at least 1"):
        Client(connections=0)


@pytest.mark.parametrize(
    ("environment", "options", "is_proxied"),
    [
        ({"HTTP_PROXY": "{}"}, {}, True),
        ({"ALL_PROXY": "{}"}, {}, True),
        ({"HTTP_PROXY": "{}", "NO_PROXY": "inferlane.invalid"}, {}, False),
        ({"HTTPS_PROXY": "{}"}, {}, False),
        ({"HTTP_PROXY": "{}"}, {"trust_env": False}, False),
    ],
)
def test_the_proxy_of_the_environment_counts_unless_told(
    server: ScriptedServer,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    options: dict[str, Any],
    is_proxied: bool,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name.lower(), value.format(server.url))
    server.will(MODELS)
    if is_proxied:
        assert ask("http://inferlane.invalid", lambda client: client.models(), **options) == ()
    else:
        with pytest.raises(ConnectionFailed):
            ask("http://inferlane.invalid", lambda client: client.models(), **{"retries": ONCE, **options})
    assert [call.headers["host"] for call in server.seen] == (["inferlane.invalid"] if is_proxied else [])


def test_a_name_and_a_password_in_the_url_are_sent(server: ScriptedServer, ask: Ask) -> None:
    server.will(MODELS)
    ask(server.url.replace("://", "://me:s%20t@"), lambda client: client.models())
    assert server.seen[0].headers["authorization"] == "Basic bWU6cyB0"
