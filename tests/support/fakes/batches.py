"""Batches as a broker stores them, and a fetch that brings them to a real consumer's fetcher."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import aiokafka.consumer.consumer as consumer_module
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT, HEADER_BYTES = 17, 21, 23, 61
NODE = 1


def batch(*values: bytes, base: int = 0, codec: int = 0, producer: int = -1, control: bytes | None = None) -> bytearray:
    """A batch of these values; of a transaction with `producer`; a marker with `control`, its key."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=int(producer >= 0),
        producer_id=producer,
        producer_epoch=0 if producer >= 0 else -1,
        base_sequence=-1,
        batch_size=1 << 28,
    )
    for number, value in enumerate(values):
        builder.append(number, 1_700_000_000_000, control or b"key", value, [])
    raw = bytearray(builder.build())
    raw[:8] = base.to_bytes(8, "big")
    if control is not None:
        raw[ATTRIBUTES_AT + 1] |= 0x20
        seal(raw)
    return raw


def marker(*, base: int, producer: int, is_commit: bool) -> bytearray:
    """What ends a transaction."""
    return batch(b"\0\0\0\0\0\0", base=base, producer=producer, control=b"\0\0\0" + bytes([is_commit]))


def seal(raw: bytearray) -> bytearray:
    """Give a batch that was changed the CRC and the length that fit."""
    raw[8:12] = (len(raw) - 12).to_bytes(4, "big")
    raw[CRC_AT:ATTRIBUTES_AT] = calc_crc32c(bytes(raw[ATTRIBUTES_AT:])).to_bytes(4, "big")
    return raw


class _Client:
    """What a fetcher asks of its client."""

    _metadata_max_age_ms = 300_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.response: Any = None
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def send(self, _node: int, _request: Any) -> Any:
        if self.meanwhile is not None:
            await self.meanwhile()
        return self.response

    def force_metadata_update(self) -> None:
        raise AssertionError("nothing here needs newer metadata")


class _Response:
    API_VERSION = 11

    def __init__(self, topics: list[Any]) -> None:
        self.topics = topics


class FetchingConsumer:
    """A consumer of which only the fetcher and the positions are real."""

    def __init__(self, *partitions: TopicPartition, position: int = 0) -> None:
        self._subscription = SubscriptionState(loop=asyncio.get_running_loop())
        self._subscription.assign_from_user(partitions)
        self._client = _Client()
        self.fetcher = consumer_module.Fetcher(self._client, self._subscription, isolation_level="read_committed")
        self.fetcher._fetch_task.cancel()
        self._take_over(position)

    def _take_over(self, position: int) -> None:
        self.assignment = self._subscription.subscription.assignment
        for partition in self.assignment.tps:
            self.assignment.state_value(partition).reset_to(position)

    def assign(self, *partitions: TopicPartition, position: int) -> None:
        """Give it these partitions, in an assignment of its own."""
        self._subscription.unsubscribe()
        self._subscription.assign_from_user(partitions)
        self._take_over(position)

    def seek(self, partition: TopicPartition, position: int) -> None:
        """Go on from there."""
        self.assignment.state_value(partition).seek(position)

    async def bring(
        self,
        fetched: Mapping[TopicPartition, bytes],
        *,
        aborted: Sequence[tuple[int, int]] = (),
        error_codes: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """Let the broker answer a fetch with these bytes, in this order; `aborted` are producers and first offsets."""
        codes = error_codes or {}
        self._client.response = _Response(
            [
                (tp.topic, [(tp.partition, codes.get(tp, 0), 10**6, 10**6, 0, list(aborted), -1, bytes(raw))])
                for tp, raw in fetched.items()
            ]
        )
        request = self.request(*fetched)
        assert await self.fetcher._proc_fetch_request(self.assignment, NODE, request)

    async def bring_nothing(self, partition: TopicPartition, *, meanwhile: Callable[[], Awaitable[None]]) -> Any:
        """Let the broker answer a fetch with no record, after something that happened meanwhile; return the fetch."""
        end = self.position(partition)
        answer = (partition.partition, 0, end, end, 0, [], -1, b"")
        self._client.response = _Response([(partition.topic, [answer])])
        self._client.meanwhile = meanwhile
        request = self.request(partition)
        await self.fetcher._proc_fetch_request(self.assignment, NODE, request)
        self._client.meanwhile = None
        return request

    def as_consumer(self) -> Any:
        """What has this fetcher where aiokafka's consumer has it."""
        return SimpleNamespace(_fetcher=self.fetcher)

    def request(self, *partitions: TopicPartition) -> Any:
        """A fetch of these partitions from their positions on."""
        asked = [(tp.topic, [(tp.partition, self.position(tp), 1 << 20)]) for tp in partitions]
        return FetchRequest(500, 1, 1 << 25, fetcher.READ_COMMITTED, asked)

    def position(self, partition: TopicPartition) -> int:
        return int(self.assignment.state_value(partition).position)
