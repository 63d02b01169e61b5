"""Batches that are sent without aiokafka's sender: what it would have done to them is done all the same."""

import asyncio
import hashlib
import inspect
import struct
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.producer.sender import BaseHandler, Sender, SendProduceReqHandler
from aiokafka.structs import PartitionMetadata

from inferlane.runtime.kafka.direct_producer import DirectProducer

LIMIT_S = 60.0
NODE = 1
ONE, TWO = (TopicPartition("topic", number) for number in range(2))
TAKEN, TOO_LARGE, TOO_FEW_REPLICAS = 0, 10, 19
SEQUENCE_AT = 53


class Connection:
    """A connection whose responses the test gives."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.responses: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self.is_closed = False

    def connected(self) -> bool:
        return not self.is_closed

    def close(self, **_reason: Any) -> None:
        self.is_closed = True

    def send(self, request: Any, expect_response: bool = True) -> "asyncio.Future[Any]":
        assert expect_response
        self.requests.append(request)
        self.responses.put_nowait(asyncio.get_running_loop().create_future())
        return self.responses._queue[-1]  # type: ignore[attr-defined,no-any-return]  # the one just put

    async def next_response(self) -> "asyncio.Future[Any]":
        async with asyncio.timeout(LIMIT_S):
            return await self.responses.get()


def response(code: int, *partitions: TopicPartition) -> Any:
    """A response of the broker with this error for each of the partitions."""
    return SimpleNamespace(API_VERSION=7, topics=[("topic", [(part.partition, code, 5, -1, 0) for part in partitions])])


@pytest.fixture
async def made() -> AsyncIterator[tuple[DirectProducer, Connection]]:
    """A producer that was given its connection and the leader of two partitions, and a sender that runs."""
    producer, connection = DirectProducer(bootstrap_servers="127.0.0.1:1", acks="all"), Connection()
    producer.client._conns[NODE, ConnectionGroup.DEFAULT] = connection
    producer.client.cluster._partitions["topic"] = {
        part.partition: PartitionMetadata("topic", part.partition, NODE, [NODE], [NODE], None) for part in (ONE, TWO)
    }
    await producer._sender.start()
    yield producer, connection
    await producer._sender.close()
    producer._closed = True


def built(producer: DirectProducer, *values: bytes) -> BatchBuilder:
    builder = producer.create_batch()
    for value in values:
        builder.append(key=b"k", value=value, timestamp=1, headers=[])
    return builder


def sent_values(request: Any) -> dict[int, bytes]:
    ((_, partitions),) = request._topics
    return {number: bytes(raw) for number, raw in partitions}


async def test_batches_of_one_leader_are_one_request_and_settled_when_it_is_answered(
    made: tuple[DirectProducer, Connection],
) -> None:
    producer, connection = made
    sent = producer.send_at_once({ONE: built(producer, b"first"), TWO: built(producer, b"second")})
    assert sent is not None
    (request,) = connection.requests
    raw = sent_values(request)
    assert b"first" in raw[0]
    assert b"second" in raw[1]
    assert not any(future.done() for future in sent.futures.values())
    (await connection.next_response()).set_result(response(TAKEN, ONE, TWO))
    await sent.wait(LIMIT_S)
    assert [sent.futures[part].result().offset for part in (ONE, TWO)] == [5, 5]  # type: ignore[attr-defined]
    assert producer.send_at_once({ONE: built(producer, b"third")}) is not None


async def test_while_a_request_is_under_way_the_next_batch_waits_and_then_goes(
    made: tuple[DirectProducer, Connection],
) -> None:
    """Guards `_release`: without it the batch that came meanwhile waits for ever."""
    producer, connection = made
    assert producer.send_at_once({ONE: built(producer, b"first")}) is not None
    assert producer.send_at_once({TWO: built(producer, b"second")}) is None
    later = await producer._message_accumulator.add_batch(built(producer, b"second"), TWO, LIMIT_S)
    # The sender looks, and leaves it.
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(connection.requests) == 1
    (await connection.next_response()).set_result(response(TAKEN, ONE))
    (await connection.next_response()).set_result(response(TAKEN, TWO))
    async with asyncio.timeout(LIMIT_S):
        await later
    assert len(connection.requests) == 2


@pytest.mark.parametrize(
    "odd",
    [
        SimpleNamespace(API_VERSION=7, topics=[]),
        SimpleNamespace(API_VERSION=7, topics=[("another", [(0, TAKEN, 5, -1, 0)])]),
        SimpleNamespace(API_VERSION=7, topics=[("topic", [(0, TAKEN)])]),
    ],
    ids=["empty", "another topic", "short"],
)
async def test_a_response_that_does_not_settle_a_batch_fails_it_and_frees_the_node(
    made: tuple[DirectProducer, Connection], odd: Any
) -> None:
    """The node stayed in use for ever, and every later record for it ran into its timeout without a line in the log."""
    producer, connection = made
    sent = producer.send_at_once({ONE: built(producer, b"first")})
    assert sent is not None
    (await connection.next_response()).set_result(odd)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(KafkaError, match="may not have been written"):
            await sent.futures[ONE]
        await sent.wait(LIMIT_S)
    assert producer.send_at_once({ONE: built(producer, b"second")}) is not None


async def test_a_batch_that_waits_already_stays_in_front(made: tuple[DirectProducer, Connection]) -> None:
    producer, connection = made
    producer._message_accumulator._append_batch(built(producer, b"first"), ONE)
    assert producer.send_at_once({ONE: built(producer, b"second")}) is None
    (await connection.next_response()).set_result(response(TAKEN, ONE))
    assert b"first" in sent_values(connection.requests[0])[0]


async def test_a_batch_that_the_broker_wants_again_is_sent_again_by_the_sender(
    made: tuple[DirectProducer, Connection],
) -> None:
    producer, connection = made
    sent = producer.send_at_once({ONE: built(producer, b"again")})
    assert sent is not None
    (await connection.next_response()).set_result(response(TOO_FEW_REPLICAS, ONE))
    await sent.wait(LIMIT_S)
    assert not sent.futures[ONE].done()
    # Nothing goes past it.
    assert producer.send_at_once({TWO: built(producer, b"other")}) is None
    (await connection.next_response()).set_result(response(TAKEN, ONE))
    async with asyncio.timeout(LIMIT_S):
        await sent.futures[ONE]
    first, second = map(sent_values, connection.requests)
    assert first == second


async def test_a_refused_batch_has_its_error_and_leaves_the_connection_free(
    made: tuple[DirectProducer, Connection],
) -> None:
    producer, connection = made
    sent = producer.send_at_once({ONE: built(producer, b"large")})
    assert sent is not None
    (await connection.next_response()).set_result(response(TOO_LARGE, ONE))
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(MessageSizeTooLargeError):
            await sent.futures[ONE]
    await asyncio.sleep(0)
    assert producer.send_at_once({ONE: built(producer, b"small")}) is not None


async def test_a_request_that_is_never_answered_closes_the_connection_as_aiokafkas_does(
    made: tuple[DirectProducer, Connection],
) -> None:
    producer, connection = made
    sent = producer.send_at_once({ONE: built(producer, b"lost")})
    assert sent is not None
    (await connection.next_response()).set_exception(TimeoutError())
    await sent.wait(LIMIT_S)
    for _ in range(10):
        await asyncio.sleep(0)
    assert connection.is_closed
    assert not sent.futures[ONE].done()
    sent.futures[ONE].cancel()


async def test_batches_of_a_partition_are_numbered_in_their_order(made: tuple[DirectProducer, Connection]) -> None:
    """Guards the way through `_pop_batch`: an idempotent producer's broker refuses any other number."""
    producer, connection = made
    idempotent = DirectProducer(bootstrap_servers="127.0.0.1:1", enable_idempotence=True)
    idempotent.client._conns, idempotent.client.cluster = producer.client._conns, producer.client.cluster
    assert idempotent.send_at_once({ONE: built(idempotent, b"0")}) is None, "no number of a producer yet"
    idempotent._txn_manager.set_pid_and_epoch(7, 0)
    for values in ((b"0", b"1", b"2"), (b"3",), (b"4",)):
        assert idempotent.send_at_once({ONE: built(idempotent, *values)}) is not None
        (await connection.next_response()).set_result(response(TAKEN, ONE))
        await asyncio.sleep(0)
    firsts = [struct.unpack_from(">i", sent_values(request)[0], SEQUENCE_AT)[0] for request in connection.requests]
    assert firsts == [0, 3, 4]
    idempotent._closed = True


def test_what_is_used_of_aiokafka_is_what_it_was() -> None:
    """When this fails, read what aiokafka changed in these, and change `inferlane.runtime.kafka.direct_producer`."""
    used = {
        Sender: "46ef144176b79ef8",
        BaseHandler: "41fc76293ab9b0b3",
        SendProduceReqHandler: "708c9da866caf440",
        MessageAccumulator: "562530971ca9bd19",
        MessageBatch: "36a7b1dac89d2910",
    }
    for kind, digest in used.items():
        assert hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16] == digest, kind.__qualname__
