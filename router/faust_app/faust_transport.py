"""How Faust reaches the broker: its options, its credentials, and a transport that reads as our own consumers do."""

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer
from faust.auth import SASLCredentials, SSLCredentials
from faust.tables.manager import TableManager
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode.threads import WorkerThread

from inferlane.runtime.kafka.arrivals import ArrivalListener
from inferlane.runtime.kafka.clients import (
    FETCHER_POLL_MS,
    HEARTBEATS_A_SESSION,
    METADATA_MAX_AGE_MS,
    batch_limit_bytes,
    client_arguments,
)
from inferlane.runtime.kafka.fetcher import guard_fetches, rest_between_fetches, set_fetch_wait

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# The rest between two fetches of the outcomes where workers send signals: what a lost one may delay the windows by.
_REST_MS = 5_000
# Leaving the group takes a round trip and blocks the event loop, so it happens after the data path is drained.
_JOIN_S = 3.0


class NoTables(TableManager):
    """Faust's manager of tables where there are none: it starts at once.

    Faust's own waits a second for tables to be declared, and only then are the groups joined.
    """

    async def on_start(self) -> None:
        """Let the consumer subscribe."""
        await self._update_channels()
        await self.recovery.start()


def faust_options(kafka: "KafkaSettings", names: "Names") -> dict[str, Any]:
    """The options of a Faust app without tables, leader or web server."""
    session_timeout_s = kafka.session_timeout_ms / 1000
    return {
        "id": names.outcomes_group,
        "broker": [f"kafka://{server.strip()}" for server in kafka.bootstrap_servers.split(",")],
        "broker_credentials": _credentials(kafka),
        "broker_session_timeout": session_timeout_s,
        "broker_heartbeat_interval": session_timeout_s / HEARTBEATS_A_SESSION,
        "broker_request_timeout": max(kafka.request_timeout_ms / 1000, session_timeout_s + 5),
        "consumer_auto_offset_reset": "earliest",
        "consumer_metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "store": "memory://",
        "TableManager": NoTables,
        "table_standby_replicas": 0,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
    }


def _credentials(kafka: "KafkaSettings") -> SASLCredentials | SSLCredentials | None:
    """`client_arguments` as Faust's credentials; None for a connection without TLS and SASL."""
    access = client_arguments(kafka)
    if access["security_protocol"].startswith("SASL"):
        return SASLCredentials(
            mechanism=access["sasl_mechanism"],
            username=access["sasl_plain_username"],
            password=access["sasl_plain_password"],
            ssl_context=access["ssl_context"],
        )
    return None if access["ssl_context"] is None else SSLCredentials(access["ssl_context"])


class DaemonThread(WorkerThread):
    """A consumer thread that ends with the process: one that waits for an unavailable broker must not keep it alive."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.daemon = True

    def stop(self) -> None:
        """Wait for the thread, for at most `_JOIN_S`."""
        self.join(_JOIN_S)


def _forget_if_recreated(consumer: Any, partition: Any, found: Any) -> None:
    """Forget the offsets of a partition that is read from its first record again.

    Faust drops every record below the last offset that it read: of a topic that was deleted and created again, or that
    the broker forgot, it would drop as many as the old one had.
    """
    read = consumer._read_offset.get(partition)  # noqa: SLF001 - as it does when partitions are revoked
    if not found or read is None or found[0].offset >= read:
        return
    for offsets in ("_gap", "_acked", "_acked_index", "_read_offset", "_committed_offset"):
        getattr(consumer, offsets).pop(partition, None)


def transport_class(kafka: "KafkaSettings", *, topic: str, fetch_max_wait_ms: int) -> type[Transport]:
    """A transport whose consumers are configured like Inferlane's own and read `topic`.

    An empty fetch waits `fetch_max_wait_ms`, or there is none before a signal where producers send them.
    """

    class _Thread(AIOKafkaConsumerThread):
        Worker = DaemonThread
        # Made and used in the event loop of the thread.
        arrivals: ArrivalListener | None = None

        async def on_start(self) -> None:
            await super().on_start()
            if kafka.rests_dir is not None:
                self.arrivals = ArrivalListener(kafka.rests_dir, topic)
                self.arrivals.listen()
                rest_between_fetches(self._consumer, self.arrivals, wakes_fetches=False)
                set_fetch_wait(self._consumer, _REST_MS)

        async def on_thread_stop(self) -> None:
            await super().on_thread_stop()
            if self.arrivals is not None:
                self.arrivals.close()

        def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
            guard_fetches(batch_limit_bytes=batch_limit_bytes(kafka))
            consumer = super()._create_worker_consumer(transport)
            # The consumer's start() reads them. Faust sets 1,500 ms, `read_uncommitted` and aiokafka's default.
            consumer._fetch_max_wait_ms = fetch_max_wait_ms  # noqa: SLF001 - no setter
            consumer._isolation_level = "read_committed"  # noqa: SLF001 - no setter
            consumer._consumer_timeout = FETCHER_POLL_MS / 1000  # noqa: SLF001 - no setter
            return consumer

        async def getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
            records = await super().getmany(active_partitions, timeout)
            for partition, found in records.items():
                _forget_if_recreated(self.consumer, partition, found)
            return records

    class _Consumer(Consumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return _Thread(self, loop=self.loop, beacon=self.beacon)

    class _Transport(Transport):
        Consumer = _Consumer

    return _Transport
