"""The local autoscaler: which ScaledObject is whose, and that the supervisor follows the policy."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import Gauge

from control_plane.local.managed_process import StartError
from control_plane.local.pool_autoscaler import Autoscaler
from control_plane.local.probe import Target
from control_plane.local.scaled_pools import ScaledPool, read_scaled_pools
from inferlane.contracts.naming import Names
from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.kafka.offsets import PartitionPosition, Subscription
from inferlane.runtime.metrics.consumer_metrics import LAG, WANTED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT_S = 20.0
TARGETS = [
    Target(model="iris", version=version, signature=Signature(inputs=(), outputs=())) for version in ("v1", "v2")
]
MANIFEST = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: iris-v1}
spec:
  scaleTargetRef: {name: iris-v1}
  pollingInterval: 1
  maxReplicaCount: 12
  triggers:
    - type: kafka
      metadata: {consumerGroup: inferlane.iris.v1, topic: inferlane.iris.v1.requests, lagThreshold: "10"}
    - type: kafka
      metadata: {consumerGroup: inferlane.iris.v1, topic: inferlane.iris.v1.bulk, lagThreshold: "100"}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: another-deployment}
spec:
  scaleTargetRef: {name: digits-v9}
  triggers:
    - type: kafka
      metadata: {consumerGroup: inferlane.digits.v9, topic: inferlane.digits.v9.requests}
"""


def pools(folder: Path, text: str = MANIFEST, *, max_workers: int = 3) -> tuple[ScaledPool, ...]:
    path = folder / "hpa.yaml"
    path.write_text(text)
    return read_scaled_pools(path, TARGETS, max_workers=max_workers, names=Names())


class Broker:
    """Lag by topic over 4 partitions; an error instead where it is None."""

    def __init__(self, lag: Mapping[str, int] | None) -> None:
        self.lag = lag
        self.looks = asyncio.Semaphore(0)
        self.is_closed = False

    async def read_partitions(
        self, subscriptions: Sequence[Subscription]
    ) -> Mapping[Subscription, Sequence[PartitionPosition]]:
        self.looks.release()
        if self.lag is None:
            raise UnavailableError("no broker")
        return {
            one: [PartitionPosition(beginning=0, committed=5, end=5 + self.lag.get(one.topic, 0) // 4)] * 4
            for one in subscriptions
        }

    async def close(self) -> None:
        self.is_closed = True


class Processes:
    """Takes every size it is told; fails the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sizes: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def scale(self, pool: str, size: int) -> None:
        if self.failures:
            self.failures -= 1
            raise StartError(f"{pool} did not get ready")
        self.sizes.put_nowait((pool, size))


@asynccontextmanager
async def scaling(
    found: Sequence[ScaledPool], broker: Broker, processes: Processes, workers: int
) -> "AsyncIterator[Autoscaler]":
    autoscaler = Autoscaler(found, reader=broker, scale=processes.scale, hpa_sync_s=1.0)
    task = asyncio.create_task(autoscaler.run(workers=workers))
    try:
        async with asyncio.timeout(WAIT_S):
            yield autoscaler
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert broker.is_closed


async def test_lag_wakes_a_pool_and_grows_it_to_the_cap_of_this_machine(tmp_path: Path) -> None:
    processes = Processes()
    broker = Broker({"inferlane.iris.v1.requests": 400})
    async with scaling(pools(tmp_path), broker, processes, workers=0) as autoscaler:
        assert await processes.sizes.get() == ("worker-iris-v1", 3)
        (state,) = autoscaler.states
        assert (state.lag_records, state.reason) == (400, "activated")


async def test_a_pool_whose_workers_fail_to_start_is_tried_again(tmp_path: Path) -> None:
    """Guards the event that is set again: without it one failed start leaves the pool asleep with work waiting."""
    processes = Processes(failures=2)
    async with scaling(pools(tmp_path), Broker({"inferlane.iris.v1.bulk": 4}), processes, workers=0):
        assert await processes.sizes.get() == ("worker-iris-v1", 1)


async def test_a_pool_that_is_removed_leaves_no_gauge_behind(tmp_path: Path) -> None:
    broker = Broker({"inferlane.iris.v1.requests": 4})
    async with scaling(pools(tmp_path), broker, Processes(), workers=1) as autoscaler:
        await broker.looks.acquire()
        await broker.looks.acquire()
        assert "v1" in shown(WANTED)
        await autoscaler.remove("worker-iris-v1")
        assert ("v1" in shown(WANTED), "inferlane.iris.v1.requests" in shown(LAG)) == (False, False)


def shown(gauge: Gauge) -> set[str]:
    """The values of the labels of its series."""
    return {value for family in gauge.collect() for sample in family.samples for value in sample.labels.values()}


async def test_a_broker_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    processes, broker = Processes(), Broker(None)
    async with scaling(pools(tmp_path), broker, processes, workers=2) as autoscaler:
        for _ in range(3):
            await broker.looks.acquire()
        assert processes.sizes.empty()
        (state,) = autoscaler.states
        assert (state.scaler.replicas, state.lag_records) == (2, None)


def test_only_the_pools_that_are_served_here_are_scaled_and_no_farther_than_the_cap(tmp_path: Path) -> None:
    (pool,) = pools(tmp_path)
    assert (pool.name, pool.model, pool.version) == ("worker-iris-v1", "iris", "v1")
    assert (pool.scaled_object.max_replicas, pool.scaled_object.min_replicas) == (3, 0)
    assert pool.subscriptions[1] == Subscription("inferlane.iris.v1.bulk", "inferlane.iris.v1")


def test_the_scaled_object_of_a_shared_pool_is_that_of_each_version_that_is_served_here(tmp_path: Path) -> None:
    """It was refused, although `k8s render --share` writes it."""
    own, other = MANIFEST.split("---")
    versions = (("iris.v1", "iris.v2"), ("iris.v1", "digits.v9"))
    texts = [own + "".join(own.partition("triggers:\n")[2].replace(*pair)) for pair in versions]

    found = [pools(tmp_path, text + "---" + other) for text in texts]

    assert [[pool.name for pool in each] for each in found] == [
        ["worker-iris-v1", "worker-iris-v2"],
        ["worker-iris-v1"],
    ]
    for pool in found[0]:
        group = f"inferlane.iris.{pool.version}"
        assert pool.subscriptions == tuple(Subscription(f"{group}.{lane}", group) for lane in ("requests", "bulk"))


@pytest.mark.parametrize(
    ("written", "mistaken", "named"),
    [
        (
            "consumerGroup: inferlane.iris.v1, topic: inferlane.iris.v1.bulk",
            "consumerGroup: x, topic: inferlane.iris.v1.bulk",
            "the group x",
        ),
        ("topic: inferlane.iris.v1.bulk", "topic: inferlane.iris.v2.bulk", "one version"),
        ("topic: inferlane.iris.v1.bulk", "topic: inferlane.iris.v1.blk", "one version"),
        ("inferlane.iris.v1", "inferlane.iris.v7", "no ScaledObject for any version"),
        ("inferlane.digits.v9", "inferlane.iris.v1", "both scale worker-iris-v1"),
    ],
)
def test_scaled_objects_that_do_not_fit_are_refused(tmp_path: Path, written: str, mistaken: str, named: str) -> None:
    assert written in MANIFEST
    with pytest.raises(ConfigurationError, match=named):
        pools(tmp_path, MANIFEST.replace(written, mistaken))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml.*--scaled-objects"):
        read_scaled_pools(tmp_path / "none.yaml", TARGETS, max_workers=2, names=Names())


async def test_a_version_that_appears_is_scaled_as_the_others_of_its_model_until_it_goes(tmp_path: Path) -> None:
    processes = Processes()
    broker = Broker({"inferlane.iris.v9.requests": 400})
    async with scaling(pools(tmp_path), broker, processes, workers=0) as autoscaler:
        target = Target(model="iris", version="v9", signature=TARGETS[0].signature)
        autoscaler.add(target, Names(), workers=0)
        assert await processes.sizes.get() == ("worker-iris-v9", 3)
        known, fresh = autoscaler.states
        assert fresh.pool.subscriptions == (
            Subscription("inferlane.iris.v9.requests", "inferlane.iris.v9"),
            Subscription("inferlane.iris.v9.bulk", "inferlane.iris.v9"),
        )
        assert fresh.scaler.scaled_object.max_replicas == known.scaler.scaled_object.max_replicas
        await autoscaler.remove("worker-iris-v9")
        await autoscaler.remove("worker-iris-v1")
        assert autoscaler.states == ()
        autoscaler.add(target, Names(), workers=0)
        assert await processes.sizes.get() == ("worker-iris-v9", 3)
