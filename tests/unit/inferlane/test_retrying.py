"""Trying again: only what may succeed later, for as long as it takes, and visible to whoever judges progress."""

import asyncio

import pytest

from inferlane.errors import ModelError, NotServedError, UnavailableError
from inferlane.runtime.retry import Retrier


class Flaky:
    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.was_retrying: list[bool] = []
        self.retrier = Retrier()

    async def call(self) -> str:
        self.was_retrying.append(self.retrier.is_retrying)
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        return "done"


async def test_a_call_is_repeated_until_it_is_done_and_says_so_meanwhile() -> None:
    flaky = Flaky(failures=2)
    async with asyncio.timeout(30):
        assert await flaky.retrier.until_done(flaky.call, stage="s") == "done"
    assert flaky.was_retrying == [False, True, True]
    assert not flaky.retrier.is_retrying


async def test_a_part_that_denies_the_call_is_not_asked_again() -> None:
    """Guards `except NotServedError`: a worker without rights would wait for ever and say nothing."""
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise (UnavailableError("away") if calls == 1 else NotServedError("no right to write"))

    async with asyncio.timeout(30):
        with pytest.raises(NotServedError):
            await Retrier().until_done(call, stage="s")
    assert calls == 2


async def test_a_permanent_error_is_not_retried() -> None:
    """Guards `except UnavailableError`: a wider net would repeat a model's failure for ever."""
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise ModelError("no")

    retrier = Retrier()
    async with asyncio.timeout(30):
        with pytest.raises(ModelError):
            await retrier.until_done(call, stage="s")
    assert (calls, retrier.is_retrying) == (1, False)


async def test_a_permanent_error_after_a_passing_one_ends_the_tries() -> None:
    errors = [UnavailableError("away"), ModelError("no")]

    async def call() -> None:
        raise errors.pop(0)

    retrier = Retrier()
    async with asyncio.timeout(30):
        with pytest.raises(ModelError):
            await retrier.until_done(call, stage="s")
    assert not retrier.is_retrying


async def test_cancelling_ends_the_tries() -> None:
    flaky = Flaky(failures=1_000)
    task = asyncio.create_task(flaky.retrier.until_done(flaky.call, stage="s"))
    while not flaky.retrier.is_retrying:  # noqa: ASYNC110 - the state under test is a flag
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not flaky.retrier.is_retrying
