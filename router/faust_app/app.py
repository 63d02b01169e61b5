"""The router's Faust app: one agent that reads outcomes, and the data path as a service of it.

It uses no tables, producer, web server or leader topic of Faust, because they are known to fail. Decisions are in
modules that do not import Faust, so that it can be replaced.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import faust
import structlog
from aiokafka import ConsumerRecord
from faust.app.base import BootStrategy
from mode import Service

from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState, Progress
from inferlane.runtime.metrics.consumer_metrics import CONSUMER_LAG, CONSUMER_STILL, REBALANCES
from inferlane.runtime.service import essential
from router.faust_app.faust_transport import faust_options, transport_class

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.service_settings import OutcomeSettings
    from inferlane.runtime.settings import KafkaSettings
    from router.window_publisher import WindowPublisher

log = structlog.get_logger(__name__)

# For closing clients after the drain deadline; a supervisor kills the process if it takes longer.
_CANCEL_S = 2.0
# For leaving the outcomes group. Without it the broker notices at the session timeout.
_STOP_DEADLINE_S = 10.0


class SupervisedService(Service):
    """Runs `run(stop)` while the app runs.

    If `run` ends before `stop` is set, the app crashes with its error. Stopping sets `stop`, lets `run` drain for at
    most `drain_deadline_s`, then cancels it.
    """

    def __init__(
        self, name: str, run: Callable[[asyncio.Event], Awaitable[None]], *, drain_deadline_s: float, **options: Any
    ) -> None:
        super().__init__(**options)
        self._name = name
        self._run = run
        self._drain_deadline_s = drain_deadline_s
        self._stop = asyncio.Event()
        self._task: asyncio.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether `run` has started and has not ended."""
        return self._task is not None and not self._task.done()

    async def on_start(self) -> None:
        """Start `run` as a task that the process depends on."""
        self._task = essential(asyncio.ensure_future(self._run(self._stop)), may_end=self._stop.is_set)
        self.add_future(self._watch(self._task))

    async def on_stop(self) -> None:
        """Drain `run`; cancel it after the deadline."""
        if self._task is None:
            return
        self._stop.set()
        await asyncio.wait({self._task}, timeout=self._drain_deadline_s)
        if not self._task.done():
            log.warning("drain_deadline_passed", part=self._name, drain_deadline_s=self._drain_deadline_s)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_S)

    async def _watch(self, task: asyncio.Future[None]) -> None:
        await asyncio.wait({task})
        if not self._stop.is_set():
            # mode crashes the service, and the app with it, with the error that its future raises.
            task.result()
            raise RuntimeError(f"{self._name} ended before it was told to")


# Windows are published once per interval, so a fetch may wait for half of it: a broker that does not wake a waiting
# fetch then gets two fetches per second instead of two hundred.
_FETCHES_PER_INTERVAL = 2
_PROGRESS_CHECK_S = 10.0


class DataPath(Protocol):
    """What the app runs beside its agent."""

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until `stop` is set, then finish the batches under way and return."""
        ...

    def ready(self) -> Mapping[str, bool]:
        """Each part by name, and whether it works."""
        ...

    def live(self) -> Mapping[str, bool]:
        """Each part by name; False if only a restart can repair it."""
        ...

    def health(self) -> Mapping[str, ConsumerHealth]:
        """The health of each consumer, by name."""
        ...


class _Boot(BootStrategy):
    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class RouterApp(faust.App):
    """Hosts the agent and the data path. Create it in the event loop that runs it.

    `start` returns when the app has joined the outcomes group.
    """

    BootStrategy = _Boot

    def __init__(
        self,
        outcomes_settings: "OutcomeSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        data_path: DataPath,
        window_publisher: "WindowPublisher",
    ) -> None:
        super().__init__(**faust_options(kafka, names))
        fetch_max_wait_ms = int(outcomes_settings.interval_s * 1000 / _FETCHES_PER_INTERVAL)
        outcomes = names.outcomes
        transport = transport_class(
            kafka, topic=outcomes, fetch_max_wait_ms=max(kafka.fetch_max_wait_ms, fetch_max_wait_ms)
        )
        self.transport = transport(self.conf.broker_consumer, self)
        self._progress = Progress(stuck_after_s=kafka.stuck_after_s)
        self._positions: Mapping[int, int] = {}
        self._data_path = data_path
        self._window_publisher = window_publisher
        drain_deadline_s = kafka.drain_deadline_s
        self._publisher = SupervisedService("publisher", window_publisher.run, drain_deadline_s=drain_deadline_s)
        self._progress_check = SupervisedService(
            "progress_check", self._check_progress, drain_deadline_s=drain_deadline_s
        )
        self._forwarder = SupervisedService("forwarder", data_path.run, drain_deadline_s=drain_deadline_s)
        CONSUMER_LAG.labels(outcomes).set_function(lambda: self._outcome_health().lag_records)
        CONSUMER_STILL.labels(outcomes).set_function(lambda: self._outcome_health().still_s)
        self._rebalances = REBALANCES.labels(outcomes)
        self.on_partitions_assigned.connect(self._note_assignment)
        # As `App.agent`, without its note for a search of modules, which looks at every module that is loaded: 8 MiB of
        # pages that a forked router shares no longer, and half a second.
        agent = self.conf.Agent(  # type: ignore[operator]  # Faust's settings are typed as what describes them
            self._read_outcomes,
            name="outcomes",
            app=self,
            channel=self.topic(outcomes, value_type=bytes, value_serializer="raw"),
            on_error=self._on_agent_error,
        )
        self.agents[agent.name] = agent
        self.topics.beacon.add(agent)

    def _init_fixups(self) -> list[Any]:
        """Return none: they are for Django, and looking for them reads what each installed package says of itself."""
        return []

    def on_init_dependencies(self) -> Iterable[Any]:
        """Faust's services, then the router's: started in this order, stopped in the reverse order."""
        return [*super().on_init_dependencies(), self._publisher, self._progress_check, self._forwarder]

    async def on_first_start(self) -> None:
        """Create no folders: there are no tables."""

    def ready(self) -> Mapping[str, bool]:
        """Whether requests are forwarded and the windows are complete."""
        return {**self.live(), **self._data_path.ready(), "outcomes": self._window_publisher.is_current}

    def live(self) -> Mapping[str, bool]:
        """Whether each part runs; False if only a restart can repair it."""
        return {
            "forwarder": self._forwarder.is_running,
            "publisher": self._publisher.is_running,
            "outcome_progress": self._outcome_health().state is not ConsumerState.STUCK,
            **self._data_path.live(),
        }

    def health(self) -> Mapping[str, ConsumerHealth]:
        """The health of each consumer, by name."""
        return {**self._data_path.health(), "outcomes": self._outcome_health()}

    def _outcome_health(self) -> ConsumerHealth:
        return self._progress.health(now_s=time.monotonic())

    async def drain(self) -> None:
        """Drain the data path; it goes first because clients wait for it."""
        await self._forwarder.stop()

    async def _read_outcomes(self, stream: Any) -> None:
        # Faust acknowledges an event when the loop goes on, even after an error. By then `add` has kept the record.
        async for event in stream.events():
            message = event.message
            await self._window_publisher.add(faust_record(message))
            self._progress.note_done(message.partition, message.offset + 1)

    async def _note_assignment(self, _app: Any, /, *args: Any, **_: Any) -> None:
        (assigned,) = args
        self._rebalances.inc()
        self._progress.start_over()
        self._positions = {}
        self._window_publisher.assign([partition.partition for partition in assigned])

    async def _check_progress(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_CHECK_S):
                    await stop.wait()
            if self._window_publisher.is_current and not stop.is_set():
                await self._compare_with_ends()

    async def _compare_with_ends(self) -> None:
        partitions = self.consumer.assignment()
        # An unavailable broker says nothing about this consumer.
        with suppress(Exception):
            async with asyncio.timeout(_PROGRESS_CHECK_S):
                ends = await self.consumer.highwaters(*partitions) if partitions else {}
                await self._note_passed(partitions)
            self._progress.note_ends({p.partition: end for p, end in ends.items()}, now_s=time.monotonic())

    async def _note_passed(self, partitions: Collection[Any]) -> None:
        """Note positions that did not move since the last check, if every event that was read is acknowledged.

        Faust gives no agent the markers of transactions nor the records of aborted ones; positions still pass them.
        """
        before = self._positions
        self._positions = {tp.partition: await self.consumer.position(tp) or 0 for tp in partitions}
        if not self.consumer.unacked:
            for partition, position in self._positions.items():
                if before.get(partition) == position:
                    self._progress.note_done(partition, position)


def faust_record(message: Any) -> ConsumerRecord:
    """The record as aiokafka gave it to Faust."""
    return ConsumerRecord(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp=int(message.timestamp * 1000),
        timestamp_type=message.timestamp_type,
        key=message.key,
        value=message.value,
        checksum=message.checksum,
        serialized_key_size=message.serialized_key_size,
        serialized_value_size=message.serialized_value_size,
        headers=tuple(message.headers or ()),
    )


async def run_app(app: RouterApp, stop: asyncio.Event) -> None:
    """Run the app until `stop` is set; drain the data path first, then stop the rest.

    Raises:
        Exception: the error of the part that failed.
    """
    running = asyncio.create_task(_until_stopped(app), name="faust")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        stopping.cancel()
        await app.drain()
        running.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
        try:
            async with asyncio.timeout(_STOP_DEADLINE_S):
                await app.stop()
        except TimeoutError:
            log.warning("outcome_group_not_left", deadline_s=_STOP_DEADLINE_S)


async def _until_stopped(app: RouterApp) -> None:
    # `start` waits for the outcomes group; the data path already runs meanwhile.
    await app.start()
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason
