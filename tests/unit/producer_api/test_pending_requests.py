"""Clients that wait: each has a place of its own, whatever it waits for."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from inferlane.contracts.results import Result, Status
from inferlane.errors import OverloadedError
from producer_api.predict.pending import PendingRequests, WaiterQuotas
from producer_api.routes import predictions

LIMIT_S = 20.0


def make_pending(max_waiters: int) -> PendingRequests:
    return PendingRequests(None, None, instance="api", max_waiters=max_waiters)  # type: ignore[arg-type]  # neither is asked


async def test_the_limit_counts_those_who_wait_and_not_what_they_wait_for() -> None:
    """Guards the count: 300 waited at a limit of 5, all for one id (seen to fail so)."""
    pending = make_pending(5)
    waiters = [pending.add("one") for _ in range(5)]
    with pytest.raises(OverloadedError, match="the limit is 5"):
        pending.add("one")
    with pytest.raises(OverloadedError, match="the limit is 5"):
        pending.add("another")
    pending.remove("one", waiters.pop())
    pending.remove("another", pending.add("another"))
    for waiter in waiters:
        pending.remove("one", waiter)
    assert [pending.add("one") for _ in range(5)]


async def test_a_foreign_result_with_the_same_id_settles_nobody() -> None:
    pending = make_pending(5)
    waiter = pending.add("id")
    fields = {"request_id": "id", "status": Status.SUCCEEDED, "model": "iris", "version": "v1"}
    pending._settle([Result(**fields, foreign_key="~x~y")])  # type: ignore[arg-type]  # fields of the struct
    assert not waiter.done()
    pending._settle([Result(**fields)])  # type: ignore[arg-type]  # as above
    assert waiter.done()


async def test_reads_that_wait_for_one_model_leave_places_to_another() -> None:
    """Guards the share in `GET /v1/predictions/{id}?wait_s=`: such calls took every waiter, and no model was asked."""
    pending, quotas = make_pending(20), WaiterQuotas(20)
    services: Any = SimpleNamespace(pending=pending, submitter=SimpleNamespace(quotas=quotas))
    reads = [asyncio.create_task(predictions._wait(services, "id", "slow", LIMIT_S)) for _ in range(20)]
    await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT_S)
    refused = [task for task in reads if task.done()]
    assert refused
    assert all(isinstance(task.exception(), OverloadedError) for task in refused)
    quotas.acquire("other")
    pending.remove("other id", pending.add("other id"))
    quotas.release("other")
    pending._settle([Result(request_id="id", status=Status.SUCCEEDED, model="slow", version="v1")])
    results = await asyncio.gather(*(task for task in reads if task not in refused))
    assert [result.request_id for result in results if result is not None] == ["id"] * 16
    # All of them were given back: the model may have its share again.
    for _ in range(16):
        quotas.acquire("slow")
