"""Faust's Kafka driver: its fetch wait is ours to set, and its thread cannot hold up the exit."""

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode.threads import WorkerThread

from inferlane.runtime.kafka.fetching import guard_fetches
from inferlane.runtime.topics import batch_limit_bytes

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# Leaving the group takes a round trip. The event loop stands still meanwhile, so only after the data path is drained.
_JOIN_S = 3.0


class DaemonThread(WorkerThread):
    """A consumer thread that dies with the process: one that waits for a broker that is gone must not keep it alive."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.daemon = True

    def stop(self) -> None:
        """Wait for the thread, but not for ever."""
        self.join(_JOIN_S)


def transport_class(settings: "Settings", *, fetch_max_wait_ms: int) -> type[Transport]:
    """A transport whose consumers read as ours do, and let the broker hold an empty fetch for so long."""

    class _Thread(AIOKafkaConsumerThread):
        Worker = DaemonThread

        def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
            guard_fetches(batch_limit_bytes=batch_limit_bytes(settings))
            consumer = super()._create_worker_consumer(transport)
            # Both are read by the consumer's start(). Faust says 1,500 ms, and commits only what it was given.
            consumer._fetch_max_wait_ms = fetch_max_wait_ms  # noqa: SLF001 - no setter
            consumer._isolation_level = "read_committed"  # noqa: SLF001 - no setter
            return consumer

    class _Consumer(Consumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return _Thread(self, loop=self.loop, beacon=self.beacon)

    class _Transport(Transport):
        Consumer = _Consumer

    return _Transport
