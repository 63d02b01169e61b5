"""A producer that sends batches at once where nothing else is under way, without the tasks of aiokafka's sender.

aiokafka queues a batch, wakes a task that collects what is queued, starts a task for the request, and hands its
response on through three futures. Most batches need none of it: nothing is queued and the connection is open. Their
request is written right away, and its response settles them as soon as it is read. Whatever is less plain (an error, a
retry, another request under way, an unknown leader) is left to aiokafka's sender. It waits meanwhile as for a request
of its own, so the order and the sequence numbers of a partition are as before.

Only this module reaches into aiokafka's sender and accumulator; `test_direct_producer.py` fails when they change.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler

from inferlane.runtime.kafka.arrivals import WrittenBatch

log = structlog.get_logger(__name__)

# What aiokafka calls the time of a topic whose broker replaces that of the producer.
_LOG_APPEND_TIME = 1

_Batches = dict[TopicPartition, MessageBatch]
# The event loop alone would let the garbage collector take a task.
_handed_on: "set[asyncio.Task[None]]" = set()


class Sent:
    """Batches that were sent at once. Used from one event loop."""

    def __init__(self, *, requests: int) -> None:
        self._unanswered = requests
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures: dict[TopicPartition, asyncio.Future[object]] = {}
        """Of each batch: done once the broker has it, or once aiokafka gives it up, then with the error."""

    async def wait(self, timeout_s: float) -> None:
        """Return when every request was answered or has failed, or after this many seconds."""
        timer = asyncio.get_running_loop().call_later(timeout_s, self._end)
        try:
            await self._answered
        finally:
            timer.cancel()

    def note_answer(self) -> None:
        """Note that one of the requests was answered or has failed."""
        self._unanswered -= 1
        if self._unanswered == 0:
            self._end()

    def _end(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)


class DirectProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's producer, which can also send without the tasks of its sender."""

    def send_at_once(self, builders: Mapping[TopicPartition, BatchBuilder]) -> Sent | None:
        """Send these batches now, or none of them and return None: then use `send_batch` for each."""
        accumulator, sender = self._message_accumulator, self._sender
        # What waits there may be for one of these partitions, and must stay in front.
        if accumulator._batches or accumulator._closed or accumulator._exception is not None:  # noqa: SLF001 - aiokafka's, also below
            return None
        if sender._txn_manager is not None and not sender._txn_manager.has_pid():  # noqa: SLF001
            return None
        by_node: dict[Any, list[TopicPartition]] = {}
        for partition in builders:
            by_node.setdefault(self.client.cluster.leader_for_partition(partition), []).append(partition)
        if not all(self._is_free(node, partitions) for node, partitions in by_node.items()):
            return None
        sent = Sent(requests=len(by_node))
        for node, partitions in by_node.items():
            batches = {partition: self._begin(partition, builders[partition]) for partition in partitions}
            sent.futures.update((partition, batch.future) for partition, batch in batches.items())
            _Request(self, node, batches, sent).send()
        return sent

    def _is_free(self, node: Any, partitions: list[TopicPartition]) -> bool:
        """Whether the connection to the node is open and has no produce request under way."""
        sender = self._sender
        if node in sender._in_flight or not sender._muted_partitions.isdisjoint(partitions):  # noqa: SLF001
            return False
        connection = self.client._conns.get((node, ConnectionGroup.DEFAULT))  # noqa: SLF001
        return connection is not None and bool(connection.connected())

    def _begin(self, partition: TopicPartition, builder: BatchBuilder) -> MessageBatch:
        """Pass the batch through the accumulator, which numbers it and waits for it when the producer closes."""
        accumulator = self._message_accumulator
        batch = MessageBatch(partition, builder, accumulator._batch_ttl, accumulator._linger_time)  # noqa: SLF001
        accumulator._batches[partition].append(batch)  # noqa: SLF001
        return accumulator._pop_batch(partition)  # noqa: SLF001


class _Request:
    """One produce request to one node: while it is under way, the sender sends that node nothing."""

    def __init__(self, producer: DirectProducer, node: Any, batches: _Batches, sent: Sent) -> None:
        self._client = producer.client
        self._accumulator = producer._message_accumulator  # noqa: SLF001 - aiokafka's
        self._sender = producer._sender  # noqa: SLF001 - as above
        self._node = node
        self._batches = batches
        self._sent = sent
        self._handler = SendProduceReqHandler(self._sender, batches)

    def send(self) -> None:
        self._sender._in_flight.add(self._node)  # noqa: SLF001
        self._sender._muted_partitions.update(self._batches)  # noqa: SLF001
        self._connection = self._client._conns[self._node, ConnectionGroup.DEFAULT]  # noqa: SLF001
        try:
            response = self._connection.send(self._handler.create_request())
        except KafkaConnectionError as error:
            response = asyncio.get_running_loop().create_future()
            response.set_exception(error)
        response.add_done_callback(self._on_response)

    def _on_response(self, response: "asyncio.Future[Any]") -> None:
        if response.exception() is None and _is_plain(response.result()):
            self._settle(response.result())
        else:
            task = asyncio.create_task(self._hand_on(response), name="produce:handed_on")
            _handed_on.add(task)
            task.add_done_callback(_handed_on.discard)
        self._sent.note_answer()

    def _settle(self, response: Any) -> None:
        """Settle the batches by this response; those that it does not settle fail, and the node is free again."""
        reason = "the response to their produce request does not name them"
        try:
            self._handler.handle_response(response)
        except Exception as error:
            log.exception("produce_response_not_read", node=self._node, error=repr(error))
            reason = f"the response to their produce request cannot be read: {error!r}"
        for batch in self._batches.values():
            if not batch.future.done():
                batch.future.add_done_callback(_read_error)
                batch.failure(exception=KafkaError(f"these records may not have been written: {reason}"))
        self._release()

    async def _hand_on(self, response: "asyncio.Future[Any]") -> None:
        """Do with this response what aiokafka does."""
        for batch in self._batches.values():
            # Nobody may wait for it any more.
            batch.future.add_done_callback(_read_error)
        self._handler._client = _AnsweringClient(self._client, self._connection, response)  # noqa: SLF001
        try:
            await self._handler.do(self._node)
        finally:
            self._release()

    def _release(self) -> None:
        """Let the sender send to the node again, and wake it if something waits."""
        self._sender._in_flight.discard(self._node)  # noqa: SLF001
        self._sender._muted_partitions.difference_update(self._batches)  # noqa: SLF001
        waiter = self._accumulator.waiter()
        if self._accumulator._batches and not waiter.done():  # noqa: SLF001
            waiter.set_result(None)


def written_batch(builder: BatchBuilder, written: Any) -> WrittenBatch | None:
    """Return a batch that the broker has acknowledged, from its builder and the result of its future.

    None if the broker did not say where it lies: it had the batch already; or if it stores another time in it.
    """
    if written.offset < 0 or written.timestamp_type == _LOG_APPEND_TIME:
        return None
    return WrittenBatch(written.partition, written.offset, builder._build())  # noqa: SLF001 - what was sent


class _AnsweringClient:
    """aiokafka's client to the handler of a request whose response is known."""

    def __init__(self, client: Any, connection: Any, response: "asyncio.Future[Any]") -> None:
        self._client = client
        self._connection = connection
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, _node: Any, _request: Any) -> Any:
        """Return the response, or raise as the client does."""
        try:
            return self._response.result()
        except TimeoutError as error:
            self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error


def _read_error(future: "asyncio.Future[object]") -> None:
    """Take the error of a batch, which asyncio would log if nobody else did."""
    _ = future.cancelled() or future.exception()


def _is_plain(response: Any) -> bool:
    """Return whether the broker took every batch; the second field of a partition is its error."""
    return not any(partition[1] for _, partitions in response.topics for partition in partitions)
