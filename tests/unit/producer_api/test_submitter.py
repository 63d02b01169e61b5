"""A submitted call whose client has gone: what the broker says of it later is nobody's error."""

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from inferlane.errors import InferlaneError, UnavailableError
from inferlane.runtime.config import load_settings
from producer_api.http.error_responses import ClientGoneError
from producer_api.predict.pending import PendingRequests
from producer_api.predict.submitter import ClientDisconnect, Submitter
from tests.support.fakes.calls import CALL
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import make_catalog

if TYPE_CHECKING:
    from collections.abc import Callable


class Enqueuer:
    """Has sent each record, and waits to be told what the broker says."""

    def __init__(self) -> None:
        self.on_acknowledged: asyncio.Future[Callable[[InferlaneError | None], None]] = asyncio.Future()

    def enqueue(self, _record: object, on_acknowledged: "Callable[[InferlaneError | None], None]") -> int:
        self.on_acknowledged.set_result(on_acknowledged)
        return 0

    def withdraw(self, _ticket: int) -> bool:
        return False


class AwayStore:
    async def put(self, _results: object) -> Any:
        raise UnavailableError("away")


def make_submitter(enqueuer: Enqueuer) -> Submitter:
    pending = PendingRequests(AwayStore(), None, instance="api", max_waiters=5)  # type: ignore[arg-type]  # as far as it is used
    parts: Any = {
        "catalog": make_catalog(),
        "enqueuer": enqueuer,
        "pending": pending,
        "admission": SimpleNamespace(admit=lambda *_args, **_options: None),
        "store_capacity": SimpleNamespace(admit=lambda: None),
        "cancellations": None,
        "clock": FakeClock(0.0),
    }
    return Submitter(load_settings().api, load_settings().store, load_settings().stack.names, **parts)


async def leave_before_the_broker_fails() -> None:
    enqueuer, disconnect = Enqueuer(), ClientDisconnect()
    waiting = asyncio.create_task(make_submitter(enqueuer).submit_and_wait(CALL, disconnect=disconnect))
    async with asyncio.timeout(10):
        on_acknowledged = await enqueuer.on_acknowledged
        disconnect.note()
        (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(outcome, ClientGoneError)
    outcome.__traceback__ = None  # its frames would keep what is looked at below
    on_acknowledged(UnavailableError("the broker is away"))


async def test_an_error_of_the_broker_after_the_client_left_is_not_reported_as_nobodys() -> None:
    """Guards `Acknowledged`: as the future's own exception it fills the log, a traceback for each such client."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    await leave_before_the_broker_fails()
    await asyncio.sleep(0)  # the loop holds what it ran last until its next turn
    gc.collect()
    assert not reported


async def test_an_error_of_the_broker_is_that_of_the_call() -> None:
    enqueuer = Enqueuer()
    waiting = asyncio.create_task(make_submitter(enqueuer).submit_and_wait(CALL))
    async with asyncio.timeout(10):
        (await enqueuer.on_acknowledged)(UnavailableError("the broker is away"))
        with pytest.raises(UnavailableError, match="the broker is away"):
            await waiting
