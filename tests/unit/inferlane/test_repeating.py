"""Calls that are repeated for ever: what a person must mend is said once, what passes is not."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from inferlane.errors import NotServedError, UnavailableError
from inferlane.runtime.repeating import repeat_for_ever

if TYPE_CHECKING:
    from collections.abc import Iterator


class EndError(Exception):
    """The end of a test."""


async def events(*outcomes: Exception | None) -> list[tuple[str, str]]:
    """The level and error of each line while the call ends so, time after time."""
    left: Iterator[Exception | None] = iter(outcomes)

    async def work() -> None:
        if (outcome := next(left, EndError())) is not None:
            raise outcome

    with capture_logs() as logs, pytest.raises(EndError):
        async with asyncio.timeout(20):
            await repeat_for_ever(work, every_s=0.0, on_failure="not_read")
    return [(line["log_level"], line["error"]) for line in logs]


async def test_a_store_that_denies_the_call_is_an_error_that_is_logged_once_each_time_that_it_begins() -> None:
    """A wrong password was logged at DEBUG alone, for ever."""
    denied = NotServedError("NOPERM")
    assert await events(denied, denied, None, denied) == [("error", "NOPERM")] * 2


async def test_a_store_that_is_away_is_no_error() -> None:
    assert await events(UnavailableError("away"), UnavailableError("away")) == [("debug", "away")] * 2
