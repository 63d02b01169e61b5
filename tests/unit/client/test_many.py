"""Many requests: their order, how many are under way, and that one that fails ends no other."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from inferlane_client import AsyncClient, Client, InvalidInput, Request
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer, Seen

TIMINGS = {"queue_wait": 1.0, "inference": 0.5, "total": 2.0}


class Echo:
    """Answers each call with its own rows: row 0 after `held_for` others, any once `together` were under way."""

    def __init__(self, *, held_for: int = 0, together: int = 0) -> None:
        self.most_under_way = self._under_way = self._answered = 0
        self._held_for = held_for
        self._others_are_done = asyncio.Event()
        self._together = together
        self._are_together = asyncio.Event()

    async def __call__(self, call: Seen) -> Scripted:
        body = json.loads(call.body)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        if self._under_way >= self._together:
            self._are_together.set()
        await self._are_together.wait()
        if body["instances"] == [0] and self._held_for:
            await self._others_are_done.wait()
        self._under_way -= 1
        self._answered += 1
        if self._answered >= self._held_for:
            self._others_are_done.set()
        if body["instances"] == [-1]:
            return Scripted(status=422, document={"code": "invalid_input", "detail": "no"})
        named = {name: body.get(name, "default") for name in ("model", "version")}
        result = {"request_id": "r", "status": "SUCCEEDED", "predictions": body["instances"], "timings_ms": TIMINGS}
        return Scripted(document={**result, **named})


def rows_of(answers: Any) -> list[Any]:
    return [answer.prediction().predictions[0] for answer in answers]


def test_answers_come_in_the_order_of_the_requests(server: ScriptedServer, ask: Ask) -> None:
    server.answering = Echo(held_for=3)
    answers = ask(server.url, lambda client: client.predict_many(([n] for n in range(20)), concurrency=4))
    assert rows_of(answers) == list(range(20))
    assert [answer.index for answer in answers] == list(range(20))


def test_or_as_they_are_there(server: ScriptedServer, ask: Ask) -> None:
    server.answering = Echo(held_for=19)
    requests = [[n] for n in range(20)]
    answers = ask(server.url, lambda client: client.predict_many(requests, in_order=False, concurrency=4))
    assert sorted(rows_of(answers)) == list(range(20))
    assert all(answer.index == answer.prediction().predictions[0] for answer in answers)
    assert answers[0].index != 0


def test_no_more_are_under_way_than_asked_for(server: ScriptedServer, ask: Ask) -> None:
    server.answering = echo = Echo(together=4)
    ask(server.url, lambda client: client.predict_many([[n] for n in range(30)], concurrency=4))
    assert echo.most_under_way == 4


def test_one_that_fails_ends_no_other_and_says_why(server: ScriptedServer, ask: Ask) -> None:
    server.answering = Echo()
    first, second, third = ask(server.url, lambda client: client.predict_many([[1], [-1], [float("inf")]]))
    assert first.prediction().predictions == [1]
    assert isinstance(second.outcome, InvalidInput)
    with pytest.raises(InvalidInput, match="is inf"):
        third.prediction()


def test_a_request_may_differ_in_more_than_its_rows(server: ScriptedServer, ask: Ask) -> None:
    server.answering = Echo()
    requests = [[1], Request(rows=[2], version="v2", routing_key="k")]
    first, second = ask(server.url, lambda client: client.predict_many(requests, model="iris", version="v1"))
    assert (first.outcome.model, first.outcome.version) == ("iris", "v1")
    assert (second.outcome.model, second.outcome.version) == ("iris", "v2")
    assert {json.loads(call.body).get("routing_key") for call in server.seen} == {None, "k"}


def test_requests_without_end_are_read_as_there_is_room(server: ScriptedServer) -> None:
    server.answering = Echo()
    read = itertools.count()

    def endless() -> Iterator[list[int]]:
        while True:
            yield [next(read)]

    with Client(server.url) as client:
        answers = client.predict_many(endless(), concurrency=4)
        assert rows_of(itertools.islice(answers, 10)) == list(range(10))
        answers.close()  # type: ignore[attr-defined]  # it is a generator, whose closing is what is tried
    assert next(read) <= 10 + 4


async def test_requests_may_come_from_an_asynchronous_source(server: ScriptedServer) -> None:
    server.answering = Echo()

    async def source() -> AsyncIterator[list[int]]:
        for number in range(5):
            yield [number]

    async with AsyncClient(server.url) as client:
        assert rows_of([answer async for answer in client.predict_many(source())]) == list(range(5))


async def test_leaving_the_loop_cancels_the_calls_under_way(server: ScriptedServer) -> None:
    server.answering = Echo(held_for=1_000)
    async with AsyncClient(server.url) as client:
        answers = client.predict_many([[1], [0]], concurrency=2)
        assert (await anext(answers)).index == 0
        await answers.aclose()  # type: ignore[attr-defined]  # as above
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in others if "_answer" in repr(task)]


def test_no_concurrency_is_refused(server: ScriptedServer, ask: Ask) -> None:
    with pytest.raises(ValueError, match="concurrency is 0; it must be at least 1"):
        ask(server.url, lambda client: client.predict_many([[1]], concurrency=0))
