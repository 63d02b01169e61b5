"""Work of the supervisor beside its processes: started again when it fails, and shown as a trouble of the stack."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from control_plane.local.managed_process import Backoff

log = structlog.get_logger(__name__)


async def keep_working(
    part: str, work: Callable[[], Awaitable[None]], *, effect: str, note: Callable[[str, str], None]
) -> NoReturn:
    """Do `work`, which goes on for ever, until cancelled; with back-off after each failure.

    `effect` is the consequence of its absence. `note` is told of a trouble of `part`, and with an empty text of its
    end; nothing that is wrong here may end the stack, or stay unseen.
    """
    failures, backoff = 0, Backoff()
    while True:
        began_s = time.monotonic()
        try:
            note(part, "")
            await work()
            raise RuntimeError("it ended by itself")  # noqa: TRY301 - handled like every other end
        except Exception as error:
            failures = backoff.deaths_in_a_row(failures, ran_s=time.monotonic() - began_s)
            delay_s = backoff.delay_s(failures)
            log.exception("side_work_failed", part=part, again_in_s=delay_s, effect=effect)
            note(part, f"failed, {effect}: {error!r}")
            await asyncio.sleep(delay_s)
