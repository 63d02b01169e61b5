"""Closing TLS connections to the broker in time.

TLS closes by a message that the other side answers, and asyncio and uvloop wait 30 s for it. Apache Kafka reads nothing
from a connection whose fetch it still holds, so a process that stops would wait as long for each client, and be killed.
"""

from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection

# Enough for what is still to be sent. Nothing that we have sent is lost by it: a record counts when it is acknowledged.
_CLOSE_WITHIN_S = 0.5


def bound_tls_close() -> None:
    """Have every connection with TLS close within half a second; called again, it changes nothing."""
    close = AIOKafkaConnection.close
    if hasattr(close, "__wrapped__"):
        return

    @wraps(close)
    def close_in_time(connection: Any, *args: Any, **kwargs: Any) -> Any:
        writer = connection._writer  # noqa: SLF001 - aiokafka has no public name for it
        closed = close(connection, *args, **kwargs)
        if writer is not None and writer.get_extra_info("sslcontext") is not None:
            connection._loop.call_later(_CLOSE_WITHIN_S, writer.transport.abort)  # noqa: SLF001 - as above
        return closed

    AIOKafkaConnection.close = close_in_time
