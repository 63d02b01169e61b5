"""The connection of an idempotent producer, replaced when the broker refuses it for good."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer
    from aiokafka.cluster import ClusterMetadata

    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)


class RenewableProducer:
    """aiokafka's producer, and another in its place once it is spent. One event loop.

    An idempotent producer whose sequence or session the broker refuses is refused for ever after.
    """

    def __init__(self, settings: "Settings", *, on_metadata: "Callable[[ClusterMetadata], None]") -> None:
        """`on_metadata` is called with what the broker says of its topics, each time that it is asked."""
        self._settings = settings
        self._on_metadata = on_metadata
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._producer: AIOKafkaProducer | None = None
        self._is_spent = False
        self._renewing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: the broker does not answer.
            NotServedError: the broker does not let us in.
        """
        self._producer = await self._connect()

    async def close(self) -> None:
        """Flush what is under way and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._stop(producer)
        await asyncio.gather(*self._closing)

    @property
    def current(self) -> "AIOKafkaProducer":
        """The producer to send with now.

        Raises:
            UnavailableError: it is not connected.
        """
        if self._producer is None:
            raise UnavailableError("the producer is not connected; call start() first")
        return self._producer

    def note_spent(self, producer: "AIOKafkaProducer") -> None:
        """Note that the broker refuses this one from now on; nothing changes if another is in its place already."""
        self._is_spent |= producer is self._producer

    async def renewed(self) -> "AIOKafkaProducer":
        """The producer to send with now, after a spent one was replaced.

        What the spent one holds is flushed beside the new one; nobody waits for that.

        Raises:
            UnavailableError: it is not connected, or the broker does not answer.
            NotServedError: the broker does not let us in.
        """
        if self._is_spent:
            await self._renew()
        return self.current

    async def _renew(self) -> None:
        async with self._renewing:
            if not self._is_spent:
                return
            log.warning("producer_renewed")
            spent, self._producer = self._producer, await self._connect()
            self._is_spent = False
        if spent is not None:
            closing = asyncio.create_task(self._stop(spent), name="producer:close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _connect(self) -> "AIOKafkaProducer":
        producer = make_producer(self._settings)
        try:
            with broker_errors(self._settings.kafka_bootstrap_servers):
                await producer.start()
        except BaseException:
            await producer.stop()
            raise
        producer.client.cluster.add_listener(self._on_metadata)
        return producer

    async def _stop(self, producer: "AIOKafkaProducer") -> None:
        # An idempotent producer never gives up a flush by itself; nobody waits for what is left.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await producer.stop()
