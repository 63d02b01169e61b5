"""Every call is answered in its time, whatever is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inferlane.errors import UnavailableError


@asynccontextmanager
async def answer_within(seconds: float, late: UnavailableError) -> AsyncIterator[None]:
    """Give the block so many seconds.

    Raises:
        UnavailableError: `late`, when the block has not ended by then; it is cancelled.
    """
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            yield
    except TimeoutError as error:
        raise late from error


def store_is_late(seconds: float, *, done: str) -> UnavailableError:
    """The error of a call for which the store took too long; `done` says what that leaves behind."""
    return UnavailableError(f"the result store did not answer within the {seconds:.1f} s of this call; {done}")
