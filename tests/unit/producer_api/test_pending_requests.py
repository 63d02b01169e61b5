"""Clients that wait: each has a place of its own, whatever it waits for."""

import asyncio

import pytest

from inferlane.contracts.results import Result, Status
from inferlane.errors import OverloadedError
from producer_api.predict.pending import PendingRequests
from producer_api.predict.result_waits import ResultWaits
from tests.support.fakes.clock import FakeClock
from tests.support.waiters import added

LIMIT_S = 20.0


class EmptyStore:
    async def find(self, _key: str) -> None:
        """Nothing is known yet."""


def make_pending(max_waiters: int) -> PendingRequests:
    return PendingRequests(None, None, instance="api", max_waiters=max_waiters)  # type: ignore[arg-type]  # neither is asked


async def test_the_limit_counts_those_who_wait_and_not_what_they_wait_for() -> None:
    """Guards the count: 300 waited at a limit of 5, all for one id (seen to fail so)."""
    pending = make_pending(5)
    waiters = [added(pending, "one") for _ in range(5)]
    with pytest.raises(OverloadedError, match="the limit is 5"):
        added(pending, "one")
    with pytest.raises(OverloadedError, match="the limit is 5"):
        added(pending, "another")
    pending.remove("one", waiters.pop())
    pending.remove("another", added(pending, "another"))
    for waiter in waiters:
        pending.remove("one", waiter)
    assert [added(pending, "one") for _ in range(5)]


async def test_a_foreign_result_with_the_same_id_settles_nobody() -> None:
    pending = make_pending(5)
    waiter = added(pending, "id")
    fields = {"request_id": "id", "status": Status.SUCCEEDED, "model": "iris", "version": "v1"}
    pending._settle([Result(**fields, foreign_key="~x~y")])  # type: ignore[arg-type]  # fields of the struct
    assert not waiter.done()
    pending._settle([Result(**fields)])  # type: ignore[arg-type]  # as above
    assert waiter.done()


async def test_reads_that_wait_for_one_model_leave_places_to_another() -> None:
    """Guards the share in `GET /v1/predictions/{id}?wait_s=`: such calls took every waiter, and no model was asked."""
    pending = PendingRequests(EmptyStore(), None, instance="api", max_waiters=20)  # type: ignore[arg-type]  # as far as it is used
    clock = FakeClock()
    waits = ResultWaits(pending, clock=clock, slots=20)
    quotas = waits.quotas
    until_s = clock.monotonic_s() + LIMIT_S
    reads = [asyncio.create_task(waits.wait("id", key="id", model="slow", until_s=until_s)) for _ in range(20)]
    await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT_S)
    refused = [task for task in reads if task.done()]
    assert refused
    assert all(isinstance(task.exception(), OverloadedError) for task in refused)
    quotas.acquire("other")
    pending.remove("other id", added(pending, "other id"))
    quotas.release("other")
    pending._settle([Result(request_id="id", status=Status.SUCCEEDED, model="slow", version="v1")])
    results = await asyncio.gather(*(task for task in reads if task not in refused))
    assert [result.request_id for result in results if result is not None] == ["id"] * 16
    # All of them were given back: the model may have its share again.
    for _ in range(16):
        quotas.acquire("slow")
