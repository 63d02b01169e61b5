"""From a result's token to the quality of its version, on a real broker and a real store."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.feedback import Feedback, encode_feedback
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcome_token import OutcomeTokens, day_of
from inferlane.errors import InvalidRequestError
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.feedback_store import QUALITY, REWARD, FeedbackStore
from inferlane.runtime.retry import SystemClock
from producer_api.predict.enqueuer import FeedbackSender
from router.feedback_tally import FeedbackTally
from tests.support.brokers import Broker
from tests.support.parts import embedded_store, eventually
from tests.support.version_pools import BODY, NAMES, FixedModel, VersionPools

pytestmark = pytest.mark.timeout(300)

REQUESTS = 20


@pytest.fixture
async def stack(broker: Broker) -> AsyncIterator[tuple[VersionPools, FeedbackStore]]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=url,
            feedback_secret="secret",  # noqa: S106 - of this test
            max_batch_rows=8,
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        store = FeedbackStore(redis, redis_url=url, names=NAMES, remember_s=600)
        yield VersionPools(settings, redis=redis, producer=producer, splits={}), store
        await producer.close()


async def test_labels_and_rewards_are_counted_once_for_the_version_that_answered(
    stack: tuple[VersionPools, FeedbackStore],
) -> None:
    pools, store = stack
    settings, tokens = pools.settings, pools.settings.feedback.tokens
    assert tokens is not None
    sender = FeedbackSender(pools.producer, tokens, topic=NAMES.feedback, max_age_s=settings.feedback.max_age_s)
    async with pools.router(), pools.worker(FixedModel("v1")):
        ids = await pools.send(REQUESTS)
        keys = [foreign_key(b"", request_id, BODY) for request_id in ids[Lane.REQUESTS]]

        async def all_are_answered() -> bool:
            return all(await pools.store.get(keys)) and len(await pools.headers_on(NAMES.results)) == 2 * REQUESTS

        await eventually(all_are_answered)
    given = [result.outcome_token for result in await pools.store.get(keys) if result is not None]
    # A result on the topic has the token of the same request, which is known as a repetition.
    repeated = [
        headers["ce_outcometoken"].decode()
        for headers in await pools.headers_on(NAMES.results)
        if headers["ce_id"].decode() in ids[Lane.REQUESTS]
    ]
    pieces = [Feedback(token=token, label="setosa" if number else "virginica") for number, token in enumerate(given)]
    now_s = SystemClock().now_s()
    await sender.send(pieces, now_s=now_s)
    await sender.send([Feedback(token=token, label="setosa") for token in repeated], now_s=now_s)
    await sender.send([Feedback(token=token, reward=0.5) for token in given], now_s=now_s)
    forged = OutcomeTokens(["other"]).sign(tokens.read(given[0], now_s=now_s, max_age_s=600 * 86_400))
    with pytest.raises(InvalidRequestError, match="not signed"):
        await sender.send([Feedback(token=forged, reward=1.0)], now_s=now_s)
    await pools.producer.send(
        [
            OutRecord(NAMES.feedback, b"k", encode_feedback(Feedback(token=forged, reward=99.0)), []),
            OutRecord(NAMES.feedback, b"k", b"nothing", []),
        ]
    )
    tally = FeedbackTally(
        settings.feedback, settings.kafka, settings.stack.names, tokens=tokens, store=store, clock=SystemClock()
    )
    running = asyncio.create_task(tally.run())

    async def all_is_counted() -> bool:
        report = await store.report("iris", "v1")
        return report is not None and report.reward is not None and report.reward.count == REQUESTS

    await eventually(all_is_counted)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    report = await store.report("iris", "v1")
    assert report is not None
    assert report.quality is not None
    assert (report.quality.count, report.quality.mean) == (REQUESTS, pytest.approx(1 - 1 / REQUESTS))
    assert report.reward is not None
    assert report.reward.mean == pytest.approx(0.5)
    assert report.quality.low < report.quality.mean < report.quality.high
    assert await store.report("iris", "v2") is None
    # Sums of the day of the requests, which the check of a rollout compares.
    today = day_of(now_s)
    by_day = await store.by_day("iris", "v1", REWARD, range(today - 1, today + 1))
    assert sum(held.count for days in by_day.values() for held in days.values()) == REQUESTS
    assert sum(held.total for days in by_day.values() for held in days.values()) == pytest.approx(0.5 * REQUESTS)
    assert await store.by_day("iris", "v1", QUALITY, [today - 40]) == {}


async def test_without_a_secret_results_have_no_token_and_feedback_is_refused_with_the_setting() -> None:
    sender = FeedbackSender(None, None, topic=NAMES.feedback, max_age_s=1.0)  # type: ignore[arg-type]  # never asked
    with pytest.raises(InvalidRequestError, match="INFERLANE_FEEDBACK_SECRET"):
        await sender.send([Feedback(token="t", reward=1.0)], now_s=0.0)  # noqa: S106 - of this test
