"""What API, router and workers connect to first: the store, the probe of the store, and the broker."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.store_probe import StoreProbe

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.runtime.service import Startup
    from inferlane.runtime.settings import KafkaSettings


class ServiceClients(NamedTuple):
    """A client of the store, which may still be away, and a producer that is connected."""

    redis: "Redis"
    store_probe: StoreProbe
    producer: BatchProducer


async def open_service_clients(
    stack: AsyncExitStack, kafka: "KafkaSettings", redis_url: str, names: "Names", startup: "Startup"
) -> ServiceClients:
    """Connect to the broker and begin to probe the store; `stack` closes both.

    Raises:
        StoppedEarlyError: the process was told to stop before the broker was available.
    """
    redis = await stack.enter_async_context(connect(redis_url))
    store_probe = StoreProbe(redis, redis_url=redis_url, names=names)
    store_probe.start()
    stack.push_async_callback(store_probe.close)
    producer = BatchProducer(kafka)
    await startup.wait_for("broker", producer.start)
    stack.push_async_callback(producer.close)
    return ServiceClients(redis, store_probe, producer)
