"""Write a record to the topic of a table, and tell the processes beside us that follow it."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from inferlane.runtime.kafka.arrival_signals import ArrivalSignals
from inferlane.runtime.kafka.clients import broker_errors, make_producer

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings

_STOP_TIMEOUT_S = 0.5


async def publish_to_table(kafka: "KafkaSettings", topic: str, *, key: str, value: bytes | None) -> int:
    """Write a record to the topic of a table and return its offset. Called rarely, so it opens its own connection.

    A value of None is a tombstone.

    Raises:
        UnavailableError: the broker does not answer; the record may have been written.
    """
    producer = make_producer(kafka)
    try:
        with broker_errors(kafka.bootstrap_servers):
            await producer.start()
            written = await producer.send_and_wait(topic, key=key.encode(), value=value, partition=0)
            _tell(kafka, topic)
            return int(written.offset)
    finally:
        # An idempotent producer never gives up a flush by itself, and a caller waits.
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await producer.stop()


def _tell(kafka: "KafkaSettings", topic: str) -> None:
    """Tell followers on this machine that the table has changed."""
    if kafka.arrivals_dir is not None:
        signals = ArrivalSignals(kafka.arrivals_dir)
        signals.send(topic)
        signals.close()
