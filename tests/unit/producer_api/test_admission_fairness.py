"""Two models, two versions, two lanes, in every order of arrival: nobody is refused for what others sent."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlane.contracts.traffic_split import Split
from inferlane.errors import OverloadedError
from inferlane.runtime.config import load_settings
from inferlane.runtime.split_table import SplitTable
from producer_api.predict.admission import Admission
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import make_catalog
from tests.support.fakes.simulated_queue import Pool, SimulatedQueue, Work

MODELS = ("hot", "slow")
VERSIONS = ("v1", "v2")
POOLS = [(model, version) for model in MODELS for version in VERSIONS]
STEP_S = 0.05
STEPS_A_LOOK = 10


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Requests of one kind, `rate` a second between two moments."""

    model: str
    version: str | None
    rate: float
    from_s: float = 0.0
    to_s: float = 1e9
    within_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of one request; `is_unburdened` if nothing of its pool waited at the last look or came since."""

    flow: Flow
    at_s: float
    is_let_in: bool
    is_unburdened: bool
    reason: str = ""


@dataclass
class World:
    """An API's admission over simulated pools."""

    rates: dict[Pool, float]
    weights: dict[str, float] = field(default_factory=lambda: {"v1": 1.0})
    router_rate: float = 50_000.0

    def __post_init__(self) -> None:
        self.clock = FakeClock(0.0)
        config = load_settings()
        self.queue = SimulatedQueue(config, self.clock, self.rates, self.router_rate)
        splits = SplitTable()
        splits._splits |= {model: Split(model=model, weights=self.weights) for model in MODELS}
        catalog = make_catalog(*VERSIONS, models=MODELS)
        self.admission = Admission(
            config.api,
            config.kafka,
            config.stack.names,
            catalog=catalog,
            splits=splits,
            positions=self.queue,
            clock=self.clock,
        )
        self.decisions: list[Decision] = []
        self._random = random.Random(7)

    async def run(self, flows: Sequence[Flow], *, seconds: float) -> list[Decision]:
        """The decisions about these flows, interleaved, in the order in which they were made."""
        first = len(self.decisions)
        start_s = self.clock.monotonic_s()
        due = dict.fromkeys(range(len(flows)), 0.0)
        burdened: set[Pool] = set()
        for step in range(int(seconds / STEP_S)):
            if step % STEPS_A_LOOK == 0:
                await self.admission._look()
                burdened = {pool for pool in POOLS if self.queue.waiting_for(pool)}
            arrivals: list[Flow] = []
            for number, flow in enumerate(flows):
                if flow.from_s <= step * STEP_S < flow.to_s:
                    due[number] += flow.rate * STEP_S
                    arrivals += [flow] * int(due[number])
                    due[number] -= int(due[number])
            self._random.shuffle(arrivals)
            for flow in arrivals:
                self._ask(flow, burdened, at_s=self.clock.monotonic_s() - start_s)
            self.queue.step(STEP_S)
        return self.decisions[first:]

    def _ask(self, flow: Flow, burdened: set[Pool], *, at_s: float) -> None:
        names = list(self.weights)
        version = flow.version or self._random.choices(names, [self.weights[name] for name in names])[0]
        pool = (flow.model, version)
        served_by = {(flow.model, name) for name in ([flow.version] if flow.version else names)}
        is_unburdened = not served_by & burdened
        try:
            self.admission.admit(flow.model, flow.version, within_s=flow.within_s)
        except OverloadedError as error:
            decision = Decision(flow=flow, at_s=at_s, is_let_in=False, is_unburdened=is_unburdened, reason=str(error))
        else:
            decision = Decision(flow=flow, at_s=at_s, is_let_in=True, is_unburdened=is_unburdened)
            self.queue.send(pool)
            burdened.add(pool)
        self.decisions.append(decision)


def let_in(decisions: Sequence[Decision], flow: Flow) -> list[bool]:
    return [decision.is_let_in for decision in decisions if decision.flow is flow]


FLOWS = st.lists(
    st.builds(
        Flow,
        model=st.sampled_from(MODELS),
        version=st.sampled_from([None, *VERSIONS]),
        rate=st.sampled_from([0.5, 3.0, 40.0, 300.0]),
        from_s=st.sampled_from([0.0, 0.0, 3.0, 6.0]),
        to_s=st.sampled_from([4.0, 8.0, 1e9]),
        within_s=st.sampled_from([1.0, 5.0, 60.0]),
    ),
    min_size=1,
    max_size=5,
)
RATES = st.sampled_from([0.0, 0.5, 4.4, 50.0, 2_000.0])


@given(FLOWS, st.tuples(RATES, RATES, RATES, RATES), st.sets(st.sampled_from(POOLS)), st.sampled_from([1.0, 0.5]))
@settings(deadline=None, max_examples=25)
async def test_a_pool_with_nothing_before_it_refuses_nobody_whatever_others_send(
    flows: list[Flow], rates: tuple[float, ...], bulk: set[Pool], share: float
) -> None:
    """Guards the counts by target: with one for all, a hot model's requests refuse those of a slow one."""
    world = World(
        dict(zip(POOLS, rates, strict=True)), weights={"v1": share, **({"v2": 1 - share} if share < 1 else {})}
    )
    world.queue.bulk = {pool: Work(came=10_000) for pool in bulk}
    decisions = await world.run(flows, seconds=8)
    assert [found for found in decisions if found.is_unburdened and not found.is_let_in] == []


@given(FLOWS, st.tuples(RATES, RATES, RATES, RATES))
@settings(deadline=None, max_examples=25)
async def test_whoever_is_refused_is_let_in_within_a_second(flows: list[Flow], rates: tuple[float, ...]) -> None:
    """Guards `_is_probe`: taken out, an estimate that is wrong is never found out."""
    world = World(dict(zip(POOLS, rates, strict=True)))
    decisions = await world.run(flows, seconds=8)
    for target in {(found.flow.model, found.flow.version) for found in decisions}:
        ours = [found for found in decisions if (found.flow.model, found.flow.version) == target]
        refused_since_s = None
        for found in ours:
            if found.is_let_in:
                refused_since_s = None
                continue
            refused_since_s = found.at_s if refused_since_s is None else refused_since_s
            assert found.at_s - refused_since_s < 1 + STEP_S


async def test_a_hot_model_refuses_nobody_of_a_slow_one() -> None:
    world = World({("hot", "v1"): 2_106.0, ("slow", "v1"): 4.4, ("hot", "v2"): 1.0, ("slow", "v2"): 1.0})
    slow = Flow(model="slow", version=None, rate=2.0, within_s=10.0)
    # Busy for a while, so that the slow pool's rate is known.
    await world.run([Flow(model="slow", version=None, rate=30.0, within_s=60.0)], seconds=5)
    await world.run([], seconds=60)
    decisions = await world.run([Flow(model="hot", version=None, rate=3_000.0), slow], seconds=15)
    assert all(let_in(decisions, slow))


async def test_a_hot_version_refuses_nobody_who_names_the_other() -> None:
    world = World({("hot", "v1"): 10.0, ("hot", "v2"): 10.0, ("slow", "v1"): 1.0, ("slow", "v2"): 1.0})
    by_name = Flow(model="hot", version="v2", rate=5.0, within_s=2.0)
    decisions = await world.run([Flow(model="hot", version="v1", rate=300.0), by_name], seconds=15)
    assert all(let_in(decisions, by_name))
    assert not all(decision.is_let_in for decision in decisions)


async def test_a_slow_router_is_named_as_what_is_waited_for() -> None:
    world = World(dict.fromkeys(POOLS, 1_000.0), router_rate=20.0)
    both = [Flow(model=model, version=None, rate=100.0, within_s=1.0) for model in MODELS]
    decisions = await world.run(both, seconds=10)
    reasons = [decision.reason for decision in decisions if not decision.is_let_in]
    assert reasons
    assert all("requests of all models wait for the router" in reason for reason in reasons)


async def test_a_rate_that_was_learnt_wrong_heals() -> None:
    """A pool that crawled for a while, with its clients gone since: nobody but a probe can show that it is fast."""
    pool = ("slow", "v1")
    world = World(dict.fromkeys(POOLS, 0.2))
    flow = Flow(model="slow", version=None, rate=50.0, within_s=10.0)
    await world.run([flow], seconds=60)
    world.queue.rates[pool] = 100.0
    decisions = await world.run([flow], seconds=60)
    assert not let_in(decisions, flow)[0]
    assert all(let_in(decisions, flow)[-500:])


@pytest.mark.parametrize("topic", ["ingress", "work"])
async def test_offsets_that_nobody_can_commit_refuse_for_no_longer_than_a_probe(topic: str) -> None:
    """A transaction's marker counts as lag for ever: a group that is idle then seems to stand still."""
    world = World(dict.fromkeys(POOLS, 100.0))
    flow = Flow(model="slow", version=None, rate=20.0, within_s=10.0)
    assert all(let_in(await world.run([flow], seconds=5), flow))
    work = world.queue.ingress if topic == "ingress" else world.queue.work["slow", "v1"]
    work.markers = 12
    await world.run([], seconds=300)
    again = let_in(await world.run([flow], seconds=10), flow)
    assert all(again[-150:])


async def test_a_pool_that_is_dead_is_probed_and_not_flooded() -> None:
    """Guards the interval of `_is_probe`: with none, what cannot be answered is let in to expire."""
    world = World(dict.fromkeys(POOLS, 0.0))
    flow = Flow(model="slow", version=None, rate=100.0, within_s=5.0)
    await world.run([flow], seconds=20)
    decisions = await world.run([flow], seconds=20)
    assert 15 <= sum(let_in(decisions, flow)) <= 21
