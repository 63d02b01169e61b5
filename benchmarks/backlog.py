"""A backlog that one process finds: stopped while it is written, then let go and timed until the last is done."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from aiokafka import TopicPartition

from benchmarks.bench import READY_WITHIN_S, Bench
from benchmarks.queueing import QueueGauge
from benchmarks.spells import SpellMeter
from benchmarks.systems.running import NotReadyError
from inferlane.contracts.kafka_record import OutRecord
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.kafka.producer import BatchProducer

_DRAIN_WITHIN_S = 120.0
_POLL_S = 0.05
# Values of one send: all of it is in memory at once, and must be acknowledged within a request's time.
_SEND_BYTES = 4 * 1024 * 1024


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """`records` that waited, and what they took.

    `available` is the share of `elapsed_s` that the machine ran; CPU seconds are of the one process that did the work,
    and `waited_s` are those in which its busiest thread was ready and others had the cores.
    """

    records: int
    elapsed_s: float
    available: float
    cpu_s: float
    waited_s: float

    @property
    def per_running_s(self) -> float:
        """Records a second of the time that the machine ran."""
        return self.records / (self.elapsed_s * self.available)

    @property
    def per_served_s(self) -> float:
        """Records a second of the time that the machine ran and the busiest thread did not wait for a core."""
        return self.records / (self.elapsed_s * self.available - self.waited_s)

    @property
    def per_cpu_s(self) -> float:
        """Records a second of the process's own CPU time."""
        return self.records / self.cpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """`count` records, `make` of 1 to `count`; when all are done, `outputs` hold as many (and no other) records.

    `make(0)` is one more, by which the process shows that it has joined its group.
    """

    make: Callable[[int], OutRecord]
    count: int
    outputs: Sequence[TopicPartition]


def time_drain(bench: Bench, argv: Sequence[str], backlog: Backlog) -> Drain:
    """Start the process, stop it, write the backlog, let it go.

    Raises:
        NotReadyError: not every record was done in time, or one twice; the message ends with the process's log.
    """
    with bench.process(argv) as worker:
        asyncio.run(_write(bench.settings, [backlog.make(0)]))
        _wait_held(bench, backlog.outputs, 1, within_s=READY_WITHIN_S)
        with _stopped(worker.pid):
            asyncio.run(_write(bench.settings, map(backlog.make, range(1, backlog.count + 1))))
        with SpellMeter({"it": worker.pid}) as meter, QueueGauge(worker.pid) as queue:
            _wait_held(bench, backlog.outputs, backlog.count + 1, within_s=_DRAIN_WITHIN_S)
    spell = meter.spell
    return Drain(
        records=backlog.count,
        elapsed_s=spell.elapsed_s,
        available=spell.available,
        cpu_s=sum(spell.cpu_s.values()),
        waited_s=queue.waited_s,
    )


async def _write(settings: Settings, records: Iterable[OutRecord]) -> None:
    producer = BatchProducer(settings.kafka)
    await producer.start()
    try:
        for batch in _sends(records):
            await producer.send(batch)
    finally:
        await producer.close()


def _sends(records: Iterable[OutRecord]) -> Iterator[list[OutRecord]]:
    batch: list[OutRecord] = []
    size_bytes = 0
    for record in records:
        batch.append(record)
        size_bytes += len(record.value)
        if size_bytes >= _SEND_BYTES:
            yield batch
            batch, size_bytes = [], 0
    yield batch


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _wait_held(bench: Bench, partitions: Sequence[TopicPartition], count: int, *, within_s: float) -> None:
    held = asyncio.run(_watch(bench.settings, partitions, count, within_s=within_s))
    if held != count:
        tail = bench.log.read_text(errors="replace")[-2000:]
        raise NotReadyError(f"{held} records are done, not {count}:\n{tail}")


async def _watch(settings: Settings, partitions: Sequence[TopicPartition], count: int, *, within_s: float) -> int:
    """Return when the partitions hold so many records or the time is over: how many they hold."""
    consumer = make_consumer(settings.kafka, group=None)
    deadline_s = time.monotonic() + within_s
    await consumer.start()
    try:
        while (held := sum((await consumer.end_offsets(partitions)).values())) < count:
            if time.monotonic() > deadline_s:
                break
            await asyncio.sleep(_POLL_S)
        return int(held)
    finally:
        await consumer.stop()
