"""Garbage in every topic of a running stack: no process ends, what follows it is read, and everything is served."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.kafka.clients import make_producer
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.runfile import RunFile
from tests.support.garbage import Garbage
from tests.support.keyed_stack import KeyedStack, running_stack
from tests.support.parts import eventually

pytestmark = pytest.mark.timeout(600)

NAMES = Names()
VERSIONS = (("iris", "v1"), ("iris", "v2"), ("digits", "v1"))
WEBHOOKS = {
    "INFERLANE_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "INFERLANE_FEEDBACK_SECRET": "a secret of the tests that is long enough",
}
# Another seed makes other garbage: set it to look for more.
SEED = int(os.environ.get("INFERLANE_TEST_GARBAGE_SEED", "1"))
RECORDS_A_TOPIC = 100


@pytest.fixture
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedStack]:
    with running_stack(tmp_path_factory.mktemp("garbage"), settings=WEBHOOKS) as stack:
        yield stack


async def write(settings: Settings, garbage: Garbage) -> None:
    producer = make_producer(settings.kafka)
    await producer.start()
    try:
        for record in garbage.records(RECORDS_A_TOPIC):
            await producer.send(record.topic, key=record.key, value=record.value, headers=list(record.headers))
        await producer.flush()
    finally:
        await producer.stop()


async def are_read(settings: Settings) -> None:
    """Return once every group has gone past all that was written."""
    groups = [Subscription(topic, NAMES.router_group) for topic in NAMES.ingress.values()]
    groups += [
        Subscription(NAMES.work_topic(*version, lane), NAMES.worker_group(*version))
        for version in VERSIONS
        for lane in Lane
    ]
    groups += [
        Subscription(NAMES.outcomes, NAMES.outcomes_group),
        Subscription(NAMES.feedback, NAMES.feedback_group),
        Subscription(NAMES.callbacks, NAMES.webhooks_group(NAMES.callbacks)),
    ]
    reader = BacklogReader(settings.kafka)

    async def is_so() -> bool:
        found = await reader.read(groups)
        # The workers go on reporting: of their topic a few summaries may always wait.
        return set(found) == set(groups) and all(
            position.lag_records <= (20 if group.topic == NAMES.outcomes else 0) for group, position in found.items()
        )

    try:
        await eventually(is_so, within_s=300.0)
    finally:
        await reader.close()


def processes(stack: KeyedStack) -> dict[str, tuple[int, int]]:
    """Pid and restarts of each process but those of the version that garbage names."""
    record = RunFile(stack.folder / ".inferlane").read()
    assert record is not None
    return {one.name: (one.pid, one.restarts) for one in record.processes if "garbage" not in one.name}


def test_garbage_in_every_topic_ends_nothing_and_holds_nothing_up(living: KeyedStack) -> None:
    settings = load_settings(kafka_bootstrap_servers=f"127.0.0.1:{living.broker_port}", kafka_idempotence=False)
    before = processes(living)
    asyncio.run(write(settings, Garbage(NAMES, VERSIONS, seed=SEED)))
    asyncio.run(are_read(settings))
    for model, version in VERSIONS:
        rows = [[0.5] * (4 if model == "iris" else 64)]
        body = {"model": model, "version": version, "instances": rows, "timeout_s": 60}
        status, answer = living.post("/v1/models/predict", body)
        assert (status, answer.get("status")) == (200, "SUCCEEDED"), answer
        assert living.call(f"/v1/metrics/{version}?model={model}")["outcomes"]["SUCCEEDED"] >= 0
    # Written after the garbage, so in force only once that was read.
    changed = living.call("/v1/traffic-split", {"model": "iris", "weights": {"v2": 1}})
    assert changed["weights"]["v2"] == 1.0
    assert living.call("/v1/models/predict", {"model": "iris", "instances": [[0.5] * 4]})["version"] == "v2"
    living.call("/v1/rollouts")
    living.call("/readyz")
    living.inferlane("dead-letters", "list")
    assert processes(living) == before
