"""Work beside the calls: what it dies of ends the process, and closing it never raises."""

import asyncio

import pytest

from inferlane.runtime.service import CURRENT, Background, Process


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def die() -> None:
    raise ValueError("the part is dead")


async def test_it_runs_from_start_to_close() -> None:
    background = Background(wait_for_ever, name="part")
    assert not background.is_running
    async with background:
        assert background.is_running
    assert not background.is_running
    await Background(wait_for_ever, name="never started").close()


async def test_its_end_is_that_of_the_process_and_closing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `essential` there: without it the process goes on without the part and calls itself well."""
    monkeypatch.setattr("inferlane.runtime.service.leave_within", lambda _seconds: None)
    process = Process(asyncio.Event())
    token = CURRENT.set(process)
    try:
        background = Background(die, name="part")
        background.start()
        async with asyncio.timeout(10):
            await process.stop.wait()
        assert not background.is_running
        assert str(process.failure) == "the part is dead"
        await background.close()
    finally:
        CURRENT.reset(token)
