"""Reopening a request in a real store: only one without an answer, never against a result that comes meanwhile."""

from collections.abc import AsyncIterator

import pytest

from inferlane.contracts.dead_letters import Cause, dead_letter, headers_of, read_dead_letter
from inferlane.contracts.naming import Names
from inferlane.contracts.results import Accepted, Result, Status
from inferlane.errors import ModelError, TopicMissingError
from inferlane.runtime.config import load_settings
from inferlane.runtime.dead_letter_replay import NotReplayableError, Replayer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import SystemClock
from tests.support.fakes.records import FakeRecord
from tests.support.parts import embedded_store

pytestmark = pytest.mark.timeout(120)

ACCEPTED = Accepted(model="iris", version="v1", accepted_s=1.0, deadline_s=2.0)


class Refusing:
    """A producer whose topic is gone."""

    async def send(self, _records: object) -> None:
        raise TopicMissingError("the broker has no topic inferlane.requests")


def make_result(status: Status, **more: object) -> Result:
    return Result(request_id="r", status=status, model="iris", version="v1", **more)  # type: ignore[arg-type]  # fields


@pytest.fixture
async def store() -> AsyncIterator[ResultStore]:
    async with embedded_store() as url, connect(url) as redis:
        yield ResultStore(redis, redis_url=url, result_ttl_s=60, names=Names())


@pytest.mark.parametrize(("status", "code"), [(Status.FAILED, "model_error"), (Status.EXPIRED, "deadline_exceeded")])
async def test_a_request_that_ended_without_an_answer_is_open_again_and_ends_anew(
    store: ResultStore, status: Status, code: str
) -> None:
    """An expired one too: a replay that came before the model was mended must not be the last."""
    await store.put([make_result(status, error_code=code)])
    assert await store.reopen("r", ACCEPTED, ttl_s=60) is None
    assert await store.get(["r"]) == [None]
    assert await store.accepted("r") == ACCEPTED
    (held,) = await store.put([make_result(Status.SUCCEEDED)])
    assert held.status is Status.SUCCEEDED


async def test_a_request_whose_topic_refuses_the_replay_has_failed_again(store: ResultStore) -> None:
    """It stayed open until its deadline, and the replay ended with the letters behind it unsent."""
    settings = load_settings()
    replayer = Replayer(
        settings.api,
        settings.kafka,
        settings.store,
        settings.stack,
        store=store,
        producer=Refusing(),  # type: ignore[arg-type]  # as far as it is used
        clock=SystemClock(),
    )
    original = FakeRecord(headers=(("ce_id", b"r"),))
    cause = Cause(reason="model_error", detail="", attempts=1, stack="")
    sent = dead_letter(original, cause, topic="dead", limit_bytes=1_000)
    letter = read_dead_letter(FakeRecord(topic="dead", key=sent.key, value=sent.value, headers=tuple(sent.headers)))
    headers = headers_of(letter)
    await store.put([Result.failed(headers, ModelError("it failed"), now_s=1.0)])
    with pytest.raises(NotReplayableError, match="was not taken: the broker has no topic"):
        await replayer.send(letter, to_version=None)
    (held,) = await store.get([headers.key])
    assert held is not None
    assert (held.status, held.error_code) == (Status.FAILED, TopicMissingError.code)
    assert await store.accepted(headers.key) is None


@pytest.mark.parametrize(("status", "code"), [(Status.SUCCEEDED, None), (Status.FAILED, "cancelled")])
async def test_a_request_that_was_answered_or_taken_back_keeps_its_result(
    store: ResultStore, status: Status, code: str | None
) -> None:
    """Guards the look at the held result: taken out, a replay takes a good answer away (seen to fail so)."""
    result = make_result(status, error_code=code)
    await store.put([result])
    assert await store.reopen("r", ACCEPTED, ttl_s=60) == result
    assert await store.get(["r"]) == [result]
    assert await store.accepted("r") is None


async def test_a_request_without_a_result_is_open(store: ResultStore) -> None:
    assert await store.reopen("r", ACCEPTED, ttl_s=60) is None
    assert await store.accepted("r") == ACCEPTED


async def test_a_result_that_comes_during_the_reopening_is_kept_and_told(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the comparison in the script: taken out, the answer of a worker that was quicker is deleted.

    One such race ended a whole replay, as if the store were away.
    """
    answer = make_result(Status.SUCCEEDED)
    await store.put([make_result(Status.FAILED)])
    compare_and_reopen = store._reopen

    async def reopen(**arguments: object) -> object:
        await store._redis.delete("inferlane:result:r")
        await store.put([answer])
        return await compare_and_reopen(**arguments)  # type: ignore[arg-type]  # as it was called

    # The moment between look and change.
    monkeypatch.setattr(store, "_reopen", reopen)
    assert await store.reopen("r", ACCEPTED, ttl_s=60) == answer
    assert await store.get(["r"]) == [answer]
