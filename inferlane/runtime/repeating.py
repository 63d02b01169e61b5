"""Repeat a call to a part that we depend on, for as long as the process lives."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from inferlane.errors import NotServedError, UnavailableError
from inferlane.runtime.logs import LastError

log = structlog.get_logger(__name__)


async def repeat_for_ever(work: Callable[[], Awaitable[None]], *, every_s: float, on_failure: str) -> NoReturn:
    """Call `work` until cancelled; `on_failure` is the event that is logged while the part is unavailable.

    A part that denies the call is an error, logged once: nothing but a person mends that.
    """
    last_error = LastError()
    while True:
        try:
            await work()
        except NotServedError as error:
            if last_error.is_news(error):
                log.error(on_failure, error=str(error), effect="what was read or said before goes on to hold")  # noqa: TRY400 - the message says it all
        except UnavailableError as error:
            log.debug(on_failure, error=str(error))
        else:
            last_error.clear()
        await asyncio.sleep(every_s)
