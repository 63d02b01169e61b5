"""What the integration tests share."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

# Before the time limit of a test, which ends its event loop and with it all that one could still see.
_SHOWN_BEFORE_S = 5.0


@pytest.fixture(autouse=True)
async def tasks_are_shown_when_time_runs_out(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """pytest-timeout shows the stack of every thread; what hangs here is a task."""
    marker = request.node.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker else request.config.getini("timeout"))
    timer = asyncio.get_running_loop().call_later(limit_s - _SHOWN_BEFORE_S, _show_tasks)
    yield
    timer.cancel()


def _show_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stdout)
