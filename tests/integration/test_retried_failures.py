"""What a candidate failed without a fallback, on a real broker: after the rollback the stable version answers it."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import NoReturn

import numpy as np
import pytest
from redis.asyncio import Redis

from control_plane.topic_admin import create_topics
from inferlane.contracts.identity import foreign_key
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.results import Status
from inferlane.contracts.rollout import RolloutSpec, Step
from inferlane.contracts.traffic_split import Split
from inferlane.errors import ModelError
from inferlane.runtime.dead_letter_replay import Replayer, retry_failed
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.retry import SystemClock
from tests.support.brokers import Broker
from tests.support.parts import embedded_store, eventually
from tests.support.version_pools import BODY, NAMES, FixedModel, VersionPools

pytestmark = pytest.mark.timeout(300)

REQUESTS = 30
SPEC = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.5),), fallback="none")
SPLIT = Split(model="iris", weights={"v1": 0.5, "v2": 0.5}, rollout="iris-1")


class BrokenModel(FixedModel):
    """Fails every run."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> NoReturn:
        raise ModelError(f"the weights are not there, of {len(inputs)} inputs")


@pytest.fixture
async def stack(broker: Broker) -> AsyncIterator[tuple[VersionPools, Redis]]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(
            ingress_partitions=1, work_partitions=1, redis_url=url, failure_share_limit=1.0, max_batch_rows=8
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        yield VersionPools(settings, redis=redis, producer=producer, splits={"iris": SPLIT}), redis
        await producer.close()


async def test_failed_requests_of_the_rollout_are_answered_by_the_stable_version_and_no_others(
    stack: tuple[VersionPools, Redis],
) -> None:
    pools, _ = stack
    replayer = Replayer(
        pools.settings.api,
        pools.settings.kafka,
        pools.settings.store,
        pools.settings.stack,
        store=pools.store,
        producer=pools.producer,
        clock=SystemClock(),
    )
    async with pools.router(), pools.worker(FixedModel("v1")), pools.worker(BrokenModel("v2")):
        ids = await pools.send(REQUESTS)
        pinned = [("ce_id", b"pinned"), ("ce_modelversion", b"v2")]
        await pools.producer.send([OutRecord(NAMES.ingress[Lane.REQUESTS], b"pinned", BODY, pinned)])
        keys = [foreign_key(b"", request_id, BODY) for request_id in ids[Lane.REQUESTS]]

        async def all_have_ended() -> bool:
            return len(await pools.headers_on(NAMES.results)) == 2 * REQUESTS + 1 and all(await pools.store.get(keys))

        await eventually(all_have_ended)
        letters = await pools.headers_on(NAMES.dead_letters)
        failed = {
            headers["ce_id"].decode()
            for headers in await pools.headers_on(NAMES.results)
            if headers["ce_status"] == b"FAILED"
        } - {"pinned"}
        assert len(letters) == len(failed) + 1
        sent = await retry_failed(
            pools.settings.kafka, pools.settings.stack.names, replayer, rollout="iris-1", spec=SPEC, since_s=0.0
        )
        assert sent == len(failed)
        assert (
            await retry_failed(
                pools.settings.kafka, pools.settings.stack.names, replayer, rollout="another", spec=SPEC, since_s=0.0
            )
            == 0
        )

        async def all_are_answered() -> bool:
            found = await pools.headers_on(NAMES.results)
            return len({one["ce_id"] for one in found if one["ce_status"] == b"SUCCEEDED"}) == 2 * REQUESTS

        await eventually(all_are_answered)
        results = [result for result in await pools.store.get(keys) if result is not None]
        assert Counter(result.status for result in results) == {Status.SUCCEEDED: REQUESTS}
        assert {result.version for result in results} == {"v1"}
        # They count in no rollout a second time, and what waits for nobody is not sent to the candidate again.
        assert len(await pools.headers_on(NAMES.dead_letters)) == len(letters)
        tallied = sum(tally.requests for tally in pools.summary("v1").lanes)
        assert tallied == 2 * REQUESTS - len(failed)
