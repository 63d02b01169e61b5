"""Work at the same time: nothing of it is left under way."""

import asyncio

import pytest

from inferlane.runtime.concurrent import all_done


async def test_an_error_ends_the_others_before_it_is_raised_and_stays_itself() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    async def fail() -> None:
        await began.wait()
        raise ValueError("odd")

    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="odd"):
            await all_done([wait(), fail()])
    assert ended.is_set()
