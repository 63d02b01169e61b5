"""The router's Faust app: one agent on the outcomes, and the data path as a service of it.

No tables, producer, web server or leader topic: what is known to fail in Faust is not used. Decisions live in pure
modules, so that the engine stays replaceable.
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

from inferlane.runtime.kafka.progress import ConsumerHealth, ConsumerState, Progress
from inferlane.runtime.metrics.consuming import CONSUMER_LAG, CONSUMER_STILL, REBALANCES
from inferlane.runtime.service import essential
from router.faust_app.faust_transport import faust_options, transport_class

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from router.window_publisher import WindowPublisher

log = structlog.get_logger(__name__)

# Closing clients after the drain failed; whoever waits longer is killed anyway.
_CANCEL_S = 2.0
# Leaving the outcome group is polite, not needed: the broker notices by itself.
_STOP_DEADLINE_S = 10.0


class SupervisedService(Service):
    """Runs `run(stop)` while the app runs.

    If it ends before it is told to, the app crashes with its error. Stopping sets `stop` and waits for `run` to finish
    what it holds, at most `drain_deadline_s`; past that it is cancelled.
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
        """Whether `run` has started and not ended."""
        return self._task is not None and not self._task.done()

    async def on_start(self) -> None:
        """Start `run`."""
        self._task = essential(asyncio.ensure_future(self._run(self._stop)), may_end=self._stop.is_set)
        self.add_future(self._watch(self._task))

    async def on_stop(self) -> None:
        """Drain `run`."""
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
            # mode crashes the service, and with it the app, with what its future raises.
            task.result()
            raise RuntimeError(f"{self._name} ended before it was told to")


# An outcome is shown once an interval, so a fetch may wait half of one: a broker that does not wake a waiting fetch is
# asked twice a second instead of two hundred times.
_FETCH_WAITS_AN_INTERVAL = 2
_PROGRESS_CHECK_S = 10.0


class DataPath(Protocol):
    """What the app carries besides its agent."""

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until `stop` is set, then finish what was taken and return."""
        ...

    def ready(self) -> Mapping[str, bool]:
        """Each part by name, and whether it does its work."""
        ...

    def live(self) -> Mapping[str, bool]:
        """Each part by name; False of one that only a restart can mend."""
        ...

    def health(self) -> Mapping[str, ConsumerHealth]:
        """Each consumer by name, and what it does."""
        ...


class _Boot(BootStrategy):
    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class RouterApp(faust.App):
    """Create it inside the event loop that runs it. `start` returns when the outcome group is joined."""

    BootStrategy = _Boot

    def __init__(self, settings: "Settings", *, data_path: DataPath, window_publisher: "WindowPublisher") -> None:
        super().__init__(**faust_options(settings))
        fetch_max_wait_ms = int(settings.outcome_interval_s * 1000 / _FETCH_WAITS_AN_INTERVAL)
        transport = transport_class(settings, fetch_max_wait_ms=max(settings.fetch_max_wait_ms, fetch_max_wait_ms))
        self.transport = transport(self.conf.broker_consumer, self)
        outcomes = settings.names.outcomes
        self._progress = Progress(stuck_after_s=settings.stuck_after_s)
        self._positions: Mapping[int, int] = {}
        self._data_path = data_path
        self._window_publisher = window_publisher
        drain_deadline_s = settings.drain_deadline_s
        self._publisher = SupervisedService("publisher", window_publisher.run, drain_deadline_s=drain_deadline_s)
        self._progress_check = SupervisedService(
            "progress_check", self._check_progress, drain_deadline_s=drain_deadline_s
        )
        self._forwarder = SupervisedService("forwarder", data_path.run, drain_deadline_s=drain_deadline_s)
        CONSUMER_LAG.labels(outcomes).set_function(lambda: self._outcome_health().lag_records)
        CONSUMER_STILL.labels(outcomes).set_function(lambda: self._outcome_health().still_s)
        self._rebalances = REBALANCES.labels(outcomes)
        self.on_partitions_assigned.connect(self._note_assignment)
        self.agent(self.topic(outcomes, value_type=bytes, value_serializer="raw"), name="outcomes")(self._read_outcomes)

    def on_init_dependencies(self) -> Iterable[Any]:
        """Faust's own services, then ours: started in this order, stopped in the reverse."""
        return [*super().on_init_dependencies(), self._publisher, self._progress_check, self._forwarder]

    async def on_first_start(self) -> None:
        """Create no folders: there are no tables."""

    def ready(self) -> Mapping[str, bool]:
        """Whether requests move, and the windows are whole."""
        return {**self.live(), **self._data_path.ready(), "outcomes": self._window_publisher.is_current}

    def live(self) -> Mapping[str, bool]:
        """Whether each part runs; False of one that only a restart can mend."""
        return {
            "forwarder": self._forwarder.is_running,
            "publisher": self._publisher.is_running,
            "outcome_progress": self._outcome_health().state is not ConsumerState.STUCK,
            **self._data_path.live(),
        }

    def health(self) -> Mapping[str, ConsumerHealth]:
        """What each consumer does."""
        return {**self._data_path.health(), "outcomes": self._outcome_health()}

    def _outcome_health(self) -> ConsumerHealth:
        return self._progress.health(now_s=time.monotonic())

    async def drain(self) -> None:
        """Stop the data path first: it is what clients wait for."""
        await self._forwarder.stop()

    async def _read_outcomes(self, stream: Any) -> None:
        # Faust acknowledges an event when the loop goes on, whatever happened: `add` must end with a trace.
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
        # A broker that is down says nothing about us.
        with suppress(Exception):
            async with asyncio.timeout(_PROGRESS_CHECK_S):
                ends = await self.consumer.highwaters(*partitions) if partitions else {}
                await self._note_passed(partitions)
            self._progress.note_ends({p.partition: end for p, end in ends.items()}, now_s=time.monotonic())

    async def _note_passed(self, partitions: Collection[Any]) -> None:
        """Note positions that did not move since the last check, while nothing that was read is unfinished.

        They are past what no agent is given: markers of transactions, and records of aborted ones.
        """
        before = self._positions
        self._positions = {tp.partition: await self.consumer.position(tp) or 0 for tp in partitions}
        if not self.consumer.unacked:
            for partition, position in self._positions.items():
                if before.get(partition) == position:
                    self._progress.note_done(partition, position)


def faust_record(message: Any) -> ConsumerRecord:
    """The message as aiokafka gave it to Faust."""
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
    """Run the app until `stop` is set, the data path drained before the rest.

    Raises:
        Exception: what a part of the app died of.
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
    # `start` waits for the outcome group; the data path runs from its beginning.
    await app.start()
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason
