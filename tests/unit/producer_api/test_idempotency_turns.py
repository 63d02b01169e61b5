"""Calls with one Idempotency-Key in one process: they are enqueued one after the other."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from inferlane.errors import UnavailableError
from inferlane.runtime.config import load_settings
from producer_api.predict.idempotency import Claim, IdempotencyKey, IdempotentSubmitter

KEY = IdempotencyKey(caller="", key=b"order-42")


class Claims:
    """Holds no claim."""

    async def claim(self, _key: str, wanted: Claim, *, ttl_s: float) -> Claim:
        assert ttl_s > 0
        return wanted

    async def put(self, *_: Any, ttl_s: float) -> None:
        assert ttl_s > 0


class Broker:
    """Takes a request once it is told to; refuses the first."""

    def __init__(self) -> None:
        self.may_end = [asyncio.Event() for _ in range(3)]
        self.entered = asyncio.Semaphore(0)
        self.calls = self.at_once = self.most_at_once = 0

    def left_s(self, _call: object) -> float:
        return 20.0

    async def submit(self, _call: object) -> None:
        number, self.calls = self.calls, self.calls + 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.release()
        try:
            await self.may_end[number].wait()
            if number == 0:
                raise UnavailableError("the broker is away")
        finally:
            self.at_once -= 1

    async def join(self, call: object, **_: Any) -> object:
        return call


async def test_a_call_that_comes_while_the_next_one_wakes_waits_for_its_turn() -> None:
    broker, settings = Broker(), load_settings()
    submitter = IdempotentSubmitter(
        settings.api,
        settings.store,
        claims=Claims(),  # type: ignore[arg-type]  # of the same shape, as the others
        submitter=broker,  # type: ignore[arg-type]
        store=None,  # type: ignore[arg-type]
        metrics=SimpleNamespace(count_keyed_call=lambda **_: None),  # type: ignore[arg-type]
    )
    call: Any = SimpleNamespace(request_id="r", accepted_s=0.0, deadline_s=60.0, proof=b"", bound_to=lambda _: call)

    def send() -> "asyncio.Task[Any]":
        return asyncio.create_task(submitter.submit(KEY, b"body", call, waits_for_result=False))

    async with asyncio.timeout(20):
        first = send()
        await broker.entered.acquire()
        second = send()
        broker.may_end[0].set()
        with pytest.raises(UnavailableError):
            await first
        # The turn is the second's, which may not have taken it yet.
        third = send()
        await broker.entered.acquire()
        for _ in range(10):
            await asyncio.sleep(0)
        assert broker.most_at_once == 1
        for event in broker.may_end:
            event.set()
        await asyncio.gather(second, third)
    assert (broker.calls, broker.most_at_once) == (3, 1)
    assert not submitter._submitting
