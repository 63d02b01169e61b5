"""The rollout host on a real broker: one decides, a kill at any write leaves nothing twice and nothing undone."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Self

import numpy as np
import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from standardwebhooks import Webhook

from control_plane.topic_admin import create_topics
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.lane_tallies import LaneTally
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import OutcomeSummary
from inferlane.contracts.rollout import (
    Action,
    Check,
    CheckOptions,
    Command,
    OnFailure,
    Pace,
    Phase,
    RolloutSpec,
    RolloutState,
    Step,
)
from inferlane.contracts.traffic_split import Split
from inferlane.contracts.windows import Slot
from inferlane.errors import ModelError, UnavailableError
from inferlane.runtime.compacted_table import TableMark
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.metrics.router_metrics import ROLLOUT_ERRORS
from inferlane.runtime.metrics.worker_metrics import HALTED
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import Clock, SystemClock
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable, publish_rollout
from inferlane.runtime.service import Background
from inferlane.runtime.split_table import SplitFollower, SplitTable, publish_split
from router.rollouts.candidate_watch import CandidateWatch
from router.rollouts.clearance import Clearance
from router.rollouts.decision_writer import RolloutWriter
from router.rollouts.guards import CandidatePool
from router.rollouts.host import RolloutHost
from router.rollouts.lane_slots import workers_of
from router.rollouts.outside_reader import OutsideReader
from router.version_windows import VersionWindows
from tests.support.brokers import Broker
from tests.support.fakes.records import make_catalog
from tests.support.parts import embedded_store, eventually
from tests.support.receiver import listening, make_receiver
from tests.support.version_pools import BODY, NAMES, FixedModel, VersionPools
from webhook_sender.main import serve
from webhook_sender.signing import parse_secrets, secret_of_key, written

SECRET = written(bytes(32))
SLOT_S = 1
pytestmark = pytest.mark.timeout(400)

SPEC = RolloutSpec(
    model="iris",
    candidate="v2",
    stable="v1",
    lanes=(Lane.REQUESTS,),
    steps=(Step(weight=0.05), Step(weight=0.5)),
    each=Pace(min_requests=100, min_time_s=0.0, promote_after=1),
    checks={Check.ERRORS: CheckOptions()},
    bake_s=0.0,
    on_failure=OnFailure(backlog="drain"),
)
PROMOTED = [Phase.PREPARING, Phase.STEPPING, Phase.STEPPING, Phase.BAKING, Phase.PROMOTED]
ROLLED_BACK = [Phase.PREPARING, Phase.STEPPING, Phase.ROLLING_BACK, Phase.ROLLED_BACK]


class KilledError(Exception):
    """The host died here."""


class Outcomes:
    """The windows of an owner; its summaries are what the split in force would make of 1,000 requests."""

    def __init__(self, splits: SplitTable, *, failing: float) -> None:
        self.windows = VersionWindows(slot_s=SLOT_S, window_s=3_600)
        self.owns_outcomes = True
        self.has_candidate = True
        self.assignments = 1
        self._splits = splits
        self._failing = failing
        self._sequence = 0

    def serve(self) -> None:
        """One more second of traffic."""
        self._sequence += 1
        split, now_s = self._splits.get("iris"), time.time()
        for version in ("v1", "v2") if self.has_candidate else ("v1",):
            share = 0.0 if split is None or not split.rollout else split.weights.get(version, 0.0)
            requests = int(1_000 * share)
            failed = int(requests * (self._failing if version == "v2" else 0.01))
            tally = LaneTally(
                rollout="" if split is None else split.rollout, lane=Lane.REQUESTS, requests=requests, failed=failed
            )
            summary = OutcomeSummary(
                model="iris",
                version=version,
                worker_id=f"{id(self)}",
                sequence=self._sequence,
                from_s=now_s - 1,
                to_s=now_s,
                lanes=(tally,) if requests else (),
            )
            self.windows.apply(summary, now_s=now_s)


class DyingWriter(RolloutWriter):
    """Dies before or after one of its writes, counted over all of them."""

    def __init__(self, settings: Settings, producer: BatchProducer, *, dies_at: float) -> None:
        super().__init__(settings.kafka, settings.stack.names, producer)
        self.dies_at = dies_at
        self.writes = 0

    async def state(self, state: RolloutState) -> None:
        with_death = self._count()
        await super().state(state)
        self._die(after=with_death)

    async def split(self, split: Split) -> None:
        with_death = self._count()
        await super().split(split)
        self._die(after=with_death)

    async def tell(self, state: RolloutState) -> None:
        with_death = self._count()
        await super().tell(state)
        self._die(after=with_death)

    async def done(self, command: Command) -> None:
        with_death = self._count()
        await super().done(command)
        self._die(after=with_death)

    def _count(self) -> bool:
        if self.writes == self.dies_at:
            raise KilledError
        self.writes += 1
        return self.writes - 0.5 == self.dies_at

    def _die(self, *, after: bool) -> None:
        if after:
            raise KilledError


class Outside(OutsideReader):
    """Nothing is read: the rollouts here have no check of that kind."""

    def __init__(self) -> None:
        super().__init__(load_settings().rollouts, feedback=None, clock=SystemClock())  # type: ignore[arg-type]  # never asked


class Probed(CandidateWatch):
    """The candidate answered its probe: no worker runs in most of these tests."""

    async def look(self, state: RolloutState, candidate: Sequence[Slot], *, now_s: float) -> CandidatePool:
        pool = await super()._with_backlog(state, workers_of(candidate, since_s=state.step_since_s, now_s=now_s))
        return dataclasses.replace(pool, is_probed=True)


class LateSplits(SplitTable):
    """While it `is_late`, what is read is in force only once somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_late = False
        self._read: list[tuple[str, bytes | None]] = []

    def put(self, key: str, value: bytes | None) -> None:
        self._read.append((key, value))
        if not self.is_late:
            self._put_all()

    async def wait_applied(self, offset: int, *, timeout_s: float, since: TableMark | None = None) -> None:
        await super().wait_applied(offset, timeout_s=timeout_s, since=since)
        self._put_all()

    def _put_all(self) -> None:
        read, self._read = self._read, []
        for key, value in read:
            super().put(key, value)


class Replica:
    """One router's part in rollouts, with tables of its own."""

    def __init__(  # noqa: PLR0913 - what a test may change
        self,
        settings: Settings,
        producer: BatchProducer,
        *,
        failing: float,
        dies_at: float = -1,
        results: ResultStore | None = None,
        watch: type[CandidateWatch] | None = None,
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
    ) -> None:
        """`results` is the store in which workers answer the probe; without one it is answered."""
        self.rerouted = 0
        self.rollouts, self.splits = RolloutTable(), LateSplits()
        self._followers = (
            RolloutFollower(settings.kafka, settings.stack.names, self.rollouts),
            SplitFollower(settings.kafka, settings.stack.names, self.splits),
        )
        self.outcomes = Outcomes(self.splits, failing=failing)
        self.writer = DyingWriter(settings, producer, dies_at=dies_at)
        self.host = RolloutHost(
            settings.outcomes,
            outcomes=self.outcomes,
            rollouts=self.rollouts,
            splits=self.splits,
            writer=self.writer,
            read_to_end=self.read_to_end,
            clearance=Clearance(reroute=self._reroute, retry_failed=self._retry),
            outside=Outside(),
            watch=(watch or (Probed if results is None else CandidateWatch))(
                settings.api,
                settings.kafka,
                settings.stack.names,
                catalog=make_catalog(),
                producer=producer,
                results=results,  # type: ignore[arg-type]  # without one nobody asks
                clock=clock,
            ),
            clock=clock,
        )

    async def _reroute(self, _: RolloutSpec) -> None:
        self.rerouted += 1

    async def _retry(self, _: RolloutState) -> int:
        return 7

    async def __aenter__(self) -> Self:
        for follower in self._followers:
            await follower.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.host.close()
        for follower in self._followers:
            await follower.close()

    async def read_to_end(self) -> None:
        for follower in self._followers:
            await follower.read_to_end(timeout_s=30)

    async def decide(self) -> None:
        """One decision, with the tables as the topics are."""
        await self.read_to_end()
        self.outcomes.serve()
        await self.host.decide()

    async def finish(self) -> RolloutState:
        """Decide until the rollout is over and its split is, too."""
        async with asyncio.timeout(200):
            while True:
                await self.decide()
                state, split = self.rollouts.find("iris-1"), self.splits.get("iris")
                if state is not None and state.phase.is_final and split is not None and not split.rollout:
                    return state


@pytest.fixture
async def settings(broker: Broker) -> Settings:
    settings = broker.settings(ingress_partitions=1, work_partitions=1, outcome_slot_s=SLOT_S)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
    return settings


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[BatchProducer]:
    producer = BatchProducer(settings.kafka)
    await producer.start()
    yield producer
    await producer.close()


def command(action: Action, number: int = 1, **more: object) -> Command:
    values = {"id": f"c{number}", "rollout": "iris-1", "action": action, "by": "ann", **more}
    return Command(**values)  # type: ignore[arg-type]  # the fields of the command, by name


@pytest.mark.parametrize(("failing", "phases"), [(0.01, PROMOTED), (0.5, ROLLED_BACK)])
async def test_a_host_that_is_killed_at_any_write_decides_nothing_twice(
    settings: Settings, producer: BatchProducer, failing: float, phases: list[Phase]
) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    kills = 0
    while True:
        # Half of them die before a write that the next one has to do, half of them after it.
        async with Replica(settings, producer, failing=failing, dies_at=kills % 4 / 2 + 1.5) as replica:
            try:
                state = await replica.finish()
                break
            except KilledError:
                kills += 1
    assert kills >= len(phases)
    assert [event.phase for event in state.events] == phases
    assert [event.number for event in state.events] == list(range(1, len(phases) + 1))
    split = replica.splits.get("iris")
    assert split is not None
    assert split.weights == ({"v2": 1.0} if phases is PROMOTED else {"v1": 1.0})
    assert replica.rollouts.commands == []


async def test_what_a_replaced_host_still_writes_is_passed_over(settings: Settings, producer: BatchProducer) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    async with Replica(settings, producer, failing=0.01) as old, Replica(settings, producer, failing=0.01) as new:
        await old.decide()
        await old.decide()
        await new.decide()
        await new.decide()
        await old.decide()
        taken = new.rollouts.get("iris-1")
        await old.decide()
        await new.decide()
        held, split = new.rollouts.get("iris-1"), new.splits.get("iris")
        assert split is not None
        assert held.generation == taken.generation
        assert split.generation == held.generation
        stale = Split(model="iris", weights={"v2": 1.0}, rollout="iris-1", generation=1)
        await publish_split(settings.kafka, settings.stack.names, stale)
        await new.decide()
        await new.decide()
        assert new.splits.get("iris") != stale
    async with Replica(settings, producer, failing=0.01) as late:
        # Who reads the topic anew finds the split in force last.
        found = late.splits.get("iris")
        assert found is not None
        assert found.generation > 1


class Forgetting(Probed):
    """Notes what is forgotten."""

    forgotten: ClassVar[list[str]] = []

    def forget(self, state: RolloutState) -> None:
        super().forget(state)
        self.forgotten.append(state.id)


@pytest.mark.parametrize("is_owner_again", [True, False], ids=["after another owner", "replaced while it decides"])
async def test_a_host_forgets_a_rollout_that_another_one_went_on_with(
    settings: Settings, producer: BatchProducer, *, is_owner_again: bool
) -> None:
    """Guards `_forget`: only a rollout that ended in one term of one host was ever forgotten."""
    Forgetting.forgotten.clear()
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    async with (
        Replica(settings, producer, failing=0.5, watch=Forgetting) as old,
        Replica(settings, producer, failing=0.5) as new,
    ):
        await old.decide()
        await old.decide()
        if is_owner_again:
            old.outcomes.owns_outcomes = False
            await new.finish()
            await old.decide()
            old.outcomes.owns_outcomes, old.outcomes.assignments = True, 2
        else:
            await new.decide()
        assert Forgetting.forgotten == []
        await old.decide()
        assert Forgetting.forgotten == ["iris-1"]


async def test_a_split_made_by_hand_pauses_and_a_person_goes_on(settings: Settings, producer: BatchProducer) -> None:
    spec = replace(SPEC, each=Pace())
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=spec))
    async with Replica(settings, producer, failing=0.01) as replica:
        while (held := replica.splits.get("iris")) is None or "v2" not in held.weights:
            await replica.decide()
        theirs = Split(model="iris", weights={"v1": 0.3, "v2": 0.7}, changed_s=1.0, generation=held.generation + 1)
        await publish_split(settings.kafka, settings.stack.names, theirs)
        await replica.decide()
        await replica.decide()
        assert replica.rollouts.get("iris-1").phase is Phase.PAUSED
        assert replica.splits.get("iris") == theirs
        await publish_rollout(settings.kafka, settings.stack.names, command(Action.RESUME, 2))
        for _ in range(3):
            await replica.decide()
        back = replica.splits.get("iris")
        assert back is not None
        assert (back.rollout, back.weights) == ("iris-1", {"v1": 0.95, "v2": 0.05})
        await publish_rollout(settings.kafka, settings.stack.names, command(Action.ABORT, 3, reason="enough seen"))
        state = await replica.finish()
        assert (state.phase, state.reason) == (
            Phase.ROLLED_BACK,
            "enough seen; 7 requests that it failed were sent to v1",
        )
        assert state.events[-2].by == "ann"


async def test_a_host_whose_table_is_late_sets_no_split_over_that_of_a_person(
    settings: Settings, producer: BatchProducer
) -> None:
    """The rollout is over and its last split set; before the host has read that, a person sets the next one."""
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    async with Replica(settings, producer, failing=0.01) as replica:
        while (state := replica.rollouts.find("iris-1")) is None or state.phase is not Phase.BAKING:
            await replica.decide()
        await replica.decide()
        replica.splits.is_late = True
        while not replica.rollouts.get("iris-1").phase.is_final:
            await replica.host.decide()
            await replica.rollouts.changed(timeout_s=0.1)
        theirs = Split(model="iris", weights={"v1": 0.3, "v2": 0.7}, changed_s=1.0, generation=state.generation)
        await publish_split(settings.kafka, settings.stack.names, theirs)
        await replica.host.decide()
        await replica.host.decide()
        await replica.read_to_end()
        assert replica.splits.get("iris") == theirs


async def test_a_second_rollout_of_a_model_fails_while_the_first_is_not_over(
    settings: Settings, producer: BatchProducer
) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, 2, rollout="iris-2", spec=SPEC))
    async with Replica(settings, producer, failing=0.01) as replica:
        await replica.decide()
        await replica.decide()
        second = replica.rollouts.get("iris-2")
    assert second.phase is Phase.FAILED
    assert "iris-1" in second.reason


async def test_the_backlog_of_a_candidate_that_is_rolled_back_is_moved_once(
    settings: Settings, producer: BatchProducer
) -> None:
    spec = replace(SPEC, on_failure=OnFailure(backlog="reroute"))
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=spec))
    async with Replica(settings, producer, failing=0.5) as replica:
        state = await replica.finish()
        assert (state.phase, replica.rerouted) == (Phase.ROLLED_BACK, 1)


async def test_nobody_decides_without_the_outcomes(settings: Settings, producer: BatchProducer) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    async with Replica(settings, producer, failing=0.01) as replica:
        replica.outcomes.owns_outcomes = False
        await replica.decide()
        assert replica.writer.writes == 0
        with pytest.raises(UnavailableError):
            await RolloutFollower(settings.kafka, settings.stack.names, RolloutTable()).read_to_end(timeout_s=1)


async def test_receivers_are_told_of_every_event_whenever_the_host_is_killed(broker: Broker) -> None:
    settings = broker.settings(
        outcome_slot_s=SLOT_S,
        ingress_partitions=1,
        work_partitions=1,
        webhooks=True,
        webhook_secret=SecretStr(SECRET),
        webhook_allowed_networks="127.0.0.0/8",
        drain_deadline_s=1.0,
    )
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
    producer = BatchProducer(settings.kafka)
    await producer.start()
    stop = asyncio.Event()
    sending = asyncio.create_task(serve(settings, stop))
    try:
        async with listening(make_receiver()) as receiver:
            spec = replace(SPEC, notify=(receiver.url("/told"),))
            await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=spec))
            kills = 0
            while True:
                async with Replica(settings, producer, failing=0.5, dies_at=kills % 8 / 2 + 1.5) as replica:
                    try:
                        state = await replica.finish()
                        while state.notified < len(ROLLED_BACK):
                            await replica.decide()
                            state = replica.rollouts.get("iris-1")
                        break
                    except KilledError:
                        kills += 1

            async def are_told() -> bool:
                return len(set(receiver.ids("/told"))) >= len(ROLLED_BACK)

            await eventually(are_told)
    finally:
        stop.set()
        await sending
        await producer.close()
    calls = {call.callback_id: call for call in receiver.received}
    assert kills >= len(ROLLED_BACK)
    assert len(calls) == len(ROLLED_BACK)
    signed = Webhook(written(secret_of_key(*parse_secrets(SECRET), "ann")))
    bodies = [signed.verify(call.body, call.headers) for call in calls.values()]
    bodies.sort(key=lambda body: body["data"]["number"])
    assert [body["type"] for body in bodies] == [f"rollout.{phase}" for phase in ROLLED_BACK]
    assert bodies[2]["data"]["reason"].startswith("errors: worse")
    assert (bodies[2]["data"]["rollout"], bodies[2]["data"]["candidate"]) == ("iris-1", "v2")


async def test_a_topic_that_takes_nothing_delays_only_what_receivers_are_told(
    settings: Settings, producer: BatchProducer
) -> None:
    # Without webhooks there is no such topic.
    spec = replace(SPEC, notify=("https://example.com/told",))
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=spec))
    async with Replica(settings, producer, failing=0.5) as replica:
        state = await replica.finish()
    assert (state.phase, state.notified) == (Phase.ROLLED_BACK, 0)


async def test_an_error_of_ours_ends_no_router_and_the_host_begins_anew(
    settings: Settings, producer: BatchProducer
) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=SPEC))
    fast = settings.changed(outcome_interval_s=0.01)
    # Its writer dies of what is no error of the broker or the store, and lives after that.
    async with Replica(fast, producer, failing=0.01, dies_at=0) as replica:
        errors = ROLLOUT_ERRORS._value.get()
        async with Background(replica.host.run, name="rollouts") as deciding:

            async def has_failed() -> bool:
                return ROLLOUT_ERRORS._value.get() > errors

            await eventually(has_failed)
            assert deciding.is_running
            replica.writer.dies_at = -1

            async def is_decided() -> bool:
                state = replica.rollouts.find("iris-1")
                return state is not None and state.phase is Phase.PREPARING

            await eventually(is_decided)


class Fragile(Probed):
    """An error of ours meets one rollout whenever it is looked at."""

    async def look(self, state: RolloutState, candidate: Sequence[Slot], *, now_s: float) -> CandidatePool:
        if state.id == "fragile":
            raise ValueError("nobody foresaw this")
        return await super().look(state, candidate, now_s=now_s)


async def test_an_error_of_ours_at_one_rollout_keeps_no_other_from_being_decided(
    settings: Settings, producer: BatchProducer
) -> None:
    """Guards `_alone`: whatever was wrong with one rollout held up those after it for ever."""
    names = settings.stack.names
    # The newest is looked at first.
    fragile = RolloutState(
        id="fragile", spec=replace(SPEC, model="other"), phase=Phase.STEPPING, created_s=SystemClock().now_s() + 1_000
    )
    await publish_rollout(settings.kafka, names, fragile)
    await publish_rollout(settings.kafka, names, command(Action.START, spec=SPEC))
    async with Replica(settings, producer, failing=0.5, watch=Fragile) as replica, asyncio.timeout(200):
        while (state := replica.rollouts.find("iris-1")) is None or not state.phase.is_final:
            with pytest.raises(ValueError, match="nobody foresaw this"):
                await replica.decide()
    assert state.phase is Phase.ROLLED_BACK


class Unread(Probed):
    """Nobody can say what waits for the candidate, nor whether its probe is answered."""

    async def look(self, *_: object, **__: object) -> CandidatePool:
        raise UnavailableError("the broker does not say")


async def test_an_abort_takes_the_weight_away_before_anything_else_is_looked_at(
    settings: Settings, producer: BatchProducer
) -> None:
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.START, spec=replace(SPEC, each=Pace())))
    async with Replica(settings, producer, failing=0.01) as replica:
        while (held := replica.splits.get("iris")) is None or "v2" not in held.weights:
            await replica.decide()
    await publish_rollout(settings.kafka, settings.stack.names, command(Action.ABORT, 2, reason="enough seen"))
    async with Replica(settings, producer, failing=0.01, watch=Unread) as blind:
        await blind.decide()
        await blind.decide()
        state, split = blind.rollouts.get("iris-1"), blind.splits.get("iris")
    assert state.phase is Phase.ROLLING_BACK
    assert split is not None
    assert split.weights == {"v1": 1.0}


class SettableClock(SystemClock):
    """The machine's clocks, of which somebody sets that on the wall."""

    def __init__(self) -> None:
        self.set_by_s = 0.0

    def now_s(self) -> float:  # type: ignore[override]  # the function of a class, where that one has an attribute
        return time.time() + self.set_by_s


async def test_a_clock_that_is_set_bakes_no_candidate(settings: Settings, producer: BatchProducer) -> None:
    """It was promoted at once when the clock was set, or the machine slept, for as long as the bake takes."""
    clock = SettableClock()
    await publish_rollout(
        settings.kafka, settings.stack.names, command(Action.START, spec=replace(SPEC, bake_s=3_000.0))
    )
    async with Replica(settings, producer, failing=0.01, clock=clock) as replica:
        while (state := replica.rollouts.find("iris-1")) is None or state.phase is not Phase.BAKING:
            await replica.decide()
        await replica.decide()
        for set_by_s in (4_000.0, -4_000.0):
            clock.set_by_s += set_by_s
            for _ in range(3):
                await replica.decide()
            assert replica.rollouts.get("iris-1").phase is Phase.BAKING
            left_s = 3_000.0 - clock.now_s() + replica.rollouts.get("iris-1").phase_since_s
            assert 2_000 < left_s <= 3_000


@asynccontextmanager
async def workers_to_be(broker: Broker, **more: object) -> AsyncIterator[VersionPools]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            outcome_slot_s=SLOT_S,
            max_batch_rows=8,
            session_timeout_ms=6_000,
            redis_url=url,
            **more,
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1"), ("iris", "v2")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        yield VersionPools(settings, redis=redis, producer=producer, splits={})
        await producer.close()


class BrokenModel(FixedModel):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise ModelError(f"the weights of {len(inputs)} inputs are not there")


async def test_a_pool_from_zero_gets_weight_when_a_worker_that_came_later_has_answered_the_probe(
    broker: Broker,
) -> None:
    interactive = NAMES.work_topic("iris", "v2", Lane.REQUESTS)
    async with workers_to_be(broker) as pools:
        await publish_rollout(pools.settings.kafka, pools.settings.stack.names, command(Action.START, spec=SPEC))
        for hosts in (1, 2):
            # The second host comes after a kill of the first, and cannot know whether the probe was sent.
            async with Replica(pools.settings, pools.producer, failing=0.01, results=pools.store) as replica:
                replica.outcomes.has_candidate = False
                while len(await pools.headers_on(interactive)) < hosts:
                    await replica.decide()
                for _ in range(3):
                    await replica.decide()
                state, split = replica.rollouts.get("iris-1"), replica.splits.get("iris")
                assert state.phase is Phase.PREPARING
                assert split is not None
                assert (split.weights, split.shadow) == ({"v1": 1.0}, None)
        probes = await pools.headers_on(interactive)
        assert (len(probes), len({probe["ce_id"] for probe in probes})) == (2, 1)
        async with Replica(pools.settings, pools.producer, failing=0.01, results=pools.store) as replica:
            async with pools.worker(FixedModel("v2")):
                state = await replica.finish()
            assert [event.phase for event in state.events] == PROMOTED
        # Nobody's answer, and no evidence.
        assert await pools.headers_on(NAMES.results) == []
        assert [tally for tally in pools.summary("v2").lanes if tally.rollout] == []


async def test_a_candidate_that_fails_its_probe_gets_no_request(broker: Broker) -> None:
    async with workers_to_be(broker) as pools:
        await publish_rollout(pools.settings.kafka, pools.settings.stack.names, command(Action.START, spec=SPEC))
        async with (
            Replica(pools.settings, pools.producer, failing=0.01, results=pools.store) as replica,
            pools.worker(BrokenModel("v2")),
        ):
            state = await replica.finish()
        assert [event.phase for event in state.events] == [Phase.PREPARING, Phase.FAILED]
        assert "the weights of 1 inputs are not there" in state.reason


class RepairedModel(FixedModel):
    """Fails until somebody repairs it."""

    is_broken = True

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.is_broken:
            raise ModelError("the weights are not there")
        return super().run(inputs)


async def test_the_probe_of_a_second_rollout_ends_the_halt_that_the_first_one_left_behind(broker: Broker) -> None:
    """Without other traffic nothing else does: the worker tries what waits once its pause is over."""
    model, halted = RepairedModel("v2"), HALTED.labels("iris", "v2")
    topic = NAMES.work_topic("iris", "v2", Lane.REQUESTS)
    async with workers_to_be(broker, failure_window_requests=4, failure_pause_s=0.5) as pools, pools.worker(model):
        pause_s = pools.settings.worker.failure_pause_s
        failing = [
            OutRecord(topic, b"%d" % number, BODY, [("ce_id", b"%d" % number), ("ce_model", b"iris")])
            for number in range(4)
        ]
        await pools.producer.send(failing)

        async def is_halted() -> bool:
            return halted._value.get() == 1

        await eventually(is_halted)
        halted_s = time.monotonic()

        async def is_pause_over() -> bool:
            return time.monotonic() > halted_s + pause_s

        # A fetch that was under way at the halt would take a probe that comes during the pause, which counts nothing.
        await eventually(is_pause_over)
        model.is_broken = False
        await publish_rollout(pools.settings.kafka, pools.settings.stack.names, command(Action.START, spec=SPEC))
        async with Replica(pools.settings, pools.producer, failing=0.01, results=pools.store) as replica:
            state = await replica.finish()
        assert not await is_halted()
    assert [event.phase for event in state.events] == PROMOTED
