"""A process that starts waits for what is away, says so, and ends when it is told to."""

import asyncio

import pytest

from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime import service
from inferlane.runtime.service import Startup, StoppedEarlyError

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(service, "_LONGEST_RETRY_S", 0.002)


async def test_a_part_that_is_away_is_waited_for_and_named_meanwhile() -> None:
    startup = Startup(asyncio.Event())
    seen: list[tuple[bool, str]] = []

    async def start() -> str:
        seen.append((startup.ready()["broker"], startup.reason))
        if len(seen) < 4:
            raise UnavailableError("nobody answers")
        return "connected"

    assert await startup.wait_for("broker", start) == "connected"
    assert [is_there for is_there, _ in seen] == [False] * 4
    assert seen[-1][1] == "it waits for the broker: nobody answers"
    assert startup.ready() == {"started": False, "broker": True}
    assert all(startup.live().values())


async def test_a_stop_ends_a_start_that_hangs() -> None:
    stop = asyncio.Event()
    hangs = asyncio.Event()
    was_cancelled = asyncio.Event()

    async def start() -> None:
        hangs.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    waiting = asyncio.create_task(Startup(stop).wait_for("broker", start))
    await asyncio.wait_for(hangs.wait(), WAIT_S)
    stop.set()
    with pytest.raises(StoppedEarlyError):
        await asyncio.wait_for(waiting, WAIT_S)
    assert was_cancelled.is_set()


async def test_a_stop_ends_the_wait_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_FIRST_RETRY_S", 3_600.0)
    stop = asyncio.Event()

    async def start() -> None:
        asyncio.get_running_loop().call_soon(stop.set)
        raise UnavailableError("nobody answers")

    with pytest.raises(StoppedEarlyError):
        await asyncio.wait_for(Startup(stop).wait_for("store", start), WAIT_S)


async def test_what_no_wait_mends_ends_the_start() -> None:
    async def start() -> None:
        raise ConfigurationError("wrong password")

    with pytest.raises(ConfigurationError):
        await Startup(asyncio.Event()).wait_for("broker", start)
