"""How a bulk job sees that clients are about, and leaves a part of its core to them then."""

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.kafka.clients import broker_errors, partitions_of

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

SHARE = 0.75
"""The most of a core that the process of a job uses while clients are about."""

WORK_S = 0.004
"""The CPU time between two pauses. Shorter makes pauses that a timer cannot tell, longer keeps the core for longer."""

# How often a job looks for clients, and so how late it sees one. Each look costs the broker a small call.
_LOOK_S = 1.0


class CorePace:
    """The rule of pauses: while clients are about, the CPU time of a process is at most `SHARE` of the time. No I/O.

    Time in which it waits, for results or for a core, counts as pause, but is not saved up. What other tasks of the
    process work during a pause is not owed: each pause would be longer than the last where they are busy.
    """

    def __init__(self, *, now_s: float, cpu_s: float) -> None:
        """`now_s` and `cpu_s`, here as in every call: seconds of a clock, and of CPU time that the process has had."""
        self.has_clients = False
        self.looks = 0
        self.begin(now_s=now_s, cpu_s=cpu_s)

    def begin(self, *, now_s: float, cpu_s: float) -> None:
        """Count from here: nothing is owed, and nothing saved."""
        self._since_s, self._cpu_s = now_s, cpu_s

    def note_look(self, *, has_clients: bool) -> None:
        """Note whether clients are about, until the next look."""
        self.has_clients = has_clients
        self.looks += 1

    def pause_s(self, *, now_s: float, cpu_s: float) -> float:
        """Return how long to pause before the next step; the caller does so, and begins anew after it."""
        worked_s = cpu_s - self._cpu_s
        if self.has_clients and worked_s < WORK_S:
            return 0.0
        free_s = self._since_s + worked_s / SHARE if self.has_clients else now_s
        self.begin(now_s=now_s, cpu_s=cpu_s)
        return max(0.0, free_s - now_s)


class PacedSteps:
    """Lets the tasks of a job pause together: who comes while another one pauses waits for its end."""

    def __init__(self) -> None:
        self.pace = CorePace(now_s=time.monotonic(), cpu_s=time.process_time())
        self.paused_s = 0.0
        self._pausing = asyncio.Lock()

    async def pause(self) -> None:
        """Return when the next step may begin."""
        async with self._pausing:
            pause_s = self.pace.pause_s(now_s=time.monotonic(), cpu_s=time.process_time())
            if pause_s:
                self.paused_s += pause_s
                await asyncio.sleep(pause_s)
                self.pace.begin(now_s=time.monotonic(), cpu_s=time.process_time())


async def watch_clients(
    kafka: "KafkaSettings", topic: str, consumer: "AIOKafkaConsumer", pace: CorePace, over: asyncio.Event
) -> None:
    """Look until `over` whether records come to `topic`, that of clients; a broker that does not tell makes no pauses.

    To cancel it is not enough: aiokafka's clients suppress a cancellation that meets them while they close.
    """
    try:
        partitions = await partitions_of(kafka, topic)
    except InferlaneError as error:
        log.debug("clients_not_seen", reason=str(error))
        return
    before: dict[TopicPartition, int] = {}
    while not over.is_set():
        try:
            with broker_errors(kafka.bootstrap_servers):
                ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        except InferlaneError as error:
            log.debug("clients_not_seen", reason=str(error))
            ends = {}
        pace.note_look(has_clients=bool(before) and bool(ends) and ends != before)
        before = ends
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await over.wait()
