"""Shadow copies on a real broker and a real store: compared row by row, and never anybody's result."""

from collections.abc import AsyncIterator, Mapping

import numpy as np
import pytest

from control_plane.recorded_requests import Selection, open_recorded
from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.naming import Lane
from inferlane.contracts.shadow import Comparison
from inferlane.contracts.traffic_split import Shadow, Split
from inferlane.errors import ModelError
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from tests.support.brokers import Broker
from tests.support.parts import embedded_store, eventually
from tests.support.version_pools import BODY, NAMES, FixedModel, VersionPools

pytestmark = pytest.mark.timeout(400)

REQUESTS = 40
SPLITS = {
    "iris": Split(
        model="iris", weights={"v1": 1.0}, rollout="iris-1", generation=1, shadow=Shadow(version="v2", share=1.0)
    )
}


@pytest.fixture
async def stack(broker: Broker) -> AsyncIterator[VersionPools]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(ingress_partitions=1, work_partitions=1, max_batch_rows=8, redis_url=url)
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        yield VersionPools(settings, redis=redis, producer=producer, splits=SPLITS)
        await producer.close()


async def test_copies_of_both_lanes_are_compared_and_clients_get_the_originals_answer_alone(
    stack: VersionPools,
) -> None:
    """Guards `_part` of the pipeline: without it, a copy's result is written to the store and to the results topic."""
    async with stack.router(), stack.worker(FixedModel("v1")), stack.worker(FixedModel("v2", label=2)):
        ids = await stack.send(REQUESTS)

        async def all_are_compared() -> bool:
            return (await stack.shadow_results.read("iris", "v2", "iris-1")).copies >= 2 * REQUESTS

        await eventually(all_are_compared)
    report = await stack.shadow_results.read("iris", "v2", "iris-1")
    assert (report.copies, report.compared_rows, report.failed) == (2 * REQUESTS, 2 * REQUESTS, 0)
    assert (report.agreement, report.mean_distance) == (0.0, 1.0)
    assert len(report.disagreements) > 0
    worst = report.disagreements[0]
    assert (worst.original, worst.shadow, worst.inputs["input"]) == (
        "setosa",
        "virginica",
        pytest.approx([5.1, 3.5, 1.4, 0.2]),
    )
    assert report.row_time_ms_p50 is not None
    (tally,) = [tally for tally in stack.summary("v2").lanes if tally.is_shadow]
    assert (tally.rollout, tally.requests, tally.compared, tally.agreed) == ("iris-1", 2 * REQUESTS, 2 * REQUESTS, 0)
    results = await stack.store.get([foreign_key(b"", request_id, BODY) for request_id in ids[Lane.REQUESTS]])
    assert {result.version for result in results if result is not None} == {"v1"}
    assert await stack.store.get([foreign_key(b"inferlane-shadow", ids[Lane.REQUESTS][0], BODY)]) == [None]
    on_topic = await stack.headers_on(NAMES.results)
    assert {headers["ce_modelversion"] for headers in on_topic} == {b"v1"}
    assert len(on_topic) == 2 * REQUESTS


async def test_a_shadow_that_fails_everything_harms_nobody(stack: VersionPools) -> None:
    class Failing(FixedModel):
        def run(self, _inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            raise ModelError("always")

    async with stack.router(), stack.worker(FixedModel("v1")), stack.worker(Failing("v2")):
        await stack.send(REQUESTS)

        async def all_have_failed() -> bool:
            return (await stack.shadow_results.read("iris", "v2", "iris-1")).copies >= 2 * REQUESTS

        await eventually(all_have_failed)
    report = await stack.shadow_results.read("iris", "v2", "iris-1")
    assert (report.failed, report.compared_rows, report.agreement) == (2 * REQUESTS, 0, None)
    assert report.failures == {"model_error": 2 * REQUESTS}
    assert await stack.headers_on(NAMES.dead_letters) == []
    assert {headers["ce_modelversion"] for headers in await stack.headers_on(NAMES.results)} == {b"v1"}


async def test_recorded_requests_of_both_lanes_are_compared_and_answered_to_nobody(stack: VersionPools) -> None:
    stack.splits = {}
    comparison = Comparison(model="iris", stable="v1", shadow="v2", run="replay-1")
    async with stack.router(), stack.worker(FixedModel("v1")), stack.worker(FixedModel("v2", label=1)):
        await stack.send(REQUESTS)

        async def all_are_answered() -> bool:
            return len(await stack.headers_on(NAMES.results)) == 2 * REQUESTS

        await eventually(all_are_answered)
        half = Selection(since_s=0.0, sample=0.5)
        expected = sum(half.takes(f"{lane}-{number}") for lane in Lane for number in range(REQUESTS))
        async with open_recorded(
            stack.settings.kafka, stack.settings.stack, stack.settings.store.redis_url, comparison
        ) as recorded:
            progress = await recorded.send(half, rate_per_s=1_000, on_progress=lambda _: None)
            report = await recorded.compared(progress.sent, on_report=lambda _: None)
    assert (progress.read, progress.sent, progress.unreadable) == (2 * REQUESTS, expected, 0)
    assert 0 < expected < 2 * REQUESTS
    assert (report.copies, report.compared_rows, report.agreement) == (expected, expected, 0.0)
    assert len(await stack.headers_on(NAMES.results)) == 2 * REQUESTS
    assert await stack.headers_on(NAMES.dead_letters) == []
