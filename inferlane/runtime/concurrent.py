"""Work that goes on at the same time, of which nothing is left under way when it ends."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def all_done(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Return when all are done. The first error cancels the others and is raised as it is, in no group.

    Raises:
        Exception: that error.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
