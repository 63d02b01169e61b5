"""A real fetcher that reads a log in memory, beside a producer that hands on what it writes."""

import asyncio
import contextlib
from typing import Any

import aiokafka.consumer.consumer as consumer_module
from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState

from tests.support.fakes.batches import NODE, batch

_REST_S = 0.05


class _Log:
    """The broker of such a consumer: a fetch with records is answered at once, an empty one after its wait."""

    _metadata_max_age_ms = 300_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.cluster = self
        self._stored: dict[TopicPartition, bytes] = {}
        self._ends: dict[TopicPartition, int] = {}

    def append(self, partition: TopicPartition, value: bytes) -> bytes:
        base = self._ends.get(partition, 0)
        raw = bytes(batch(value, base=base))
        self._ends[partition] = base + 1
        self._stored[partition] = self._stored.get(partition, b"") + raw
        return raw

    def leader_for_partition(self, _partition: TopicPartition) -> int:
        return NODE

    def broker_metadata(self, _node: int) -> object:
        return self

    async def send(self, _node: int, request: Any) -> Any:
        found = any(
            self._ends.get(TopicPartition(topic, number), 0) > position
            for topic, parts in request.topics
            for number, position, _ in parts
        )
        await asyncio.sleep(0 if found else request._max_wait_ms / 1000)
        return _Answer([(topic, [self._answer(topic, *part) for part in parts]) for topic, parts in request.topics])

    def _answer(self, topic: str, number: int, position: int, _most_bytes: int) -> Any:
        partition = TopicPartition(topic, number)
        end = self._ends.get(partition, 0)
        raw = self._stored[partition] if end > position else b""
        return number, 0, end, end, 0, [], -1, raw


class _Answer:
    API_VERSION = 11

    def __init__(self, topics: list[Any]) -> None:
        self.topics = topics


class _Signals:
    """The signals of the producer beside it."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()

    def forget(self) -> None:
        self._arrived.clear()

    def wake(self) -> None:
        self._arrived.set()

    async def wait(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()


class ReadingConsumer:
    """A consumer whose fetcher and its loop are real."""

    def __init__(self, *partitions: TopicPartition) -> None:
        self._log = _Log()
        self._signals = _Signals()
        subscription = SubscriptionState(loop=asyncio.get_running_loop())
        subscription.assign_from_user(partitions)
        for partition in partitions:
            subscription.subscription.assignment.state_value(partition).reset_to(0)
        self.fetcher = consumer_module.Fetcher(self._log, subscription)
        self.fetcher.arrivals, self.fetcher.rest_s = self._signals, _REST_S
        self.fetcher._fetch_max_wait_ms = 1

    def hand(self, partition: TopicPartition, value: bytes) -> None:
        """Write a record, and hand it on."""
        if not self.fetcher.take(partition.topic, partition.partition, self._log.append(partition, value)):
            self._signals.wake()

    def tell(self, partition: TopicPartition, value: bytes) -> None:
        """Write a record that is not handed on, and tell that there is one."""
        self._log.append(partition, value)
        self._signals.wake()
