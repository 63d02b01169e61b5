"""Closing TLS connections to the broker in time.

TLS closes by a message that the other side answers, and asyncio and uvloop wait 30 s for it. Apache Kafka reads nothing
from a connection whose fetch it still holds, so a stopping process would wait 30 s for each client, and be killed.
"""

from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection

# Enough for the data that is still to be sent. No record is lost by it: a record counts once it is acknowledged.
_CLOSE_WITHIN_S = 0.5


def bound_tls_close() -> None:
    """Make every TLS connection close within half a second; calling it again changes nothing."""
    close = AIOKafkaConnection.close
    if hasattr(close, "__wrapped__"):
        return

    @wraps(close)
    def close_in_time(connection: Any, *args: Any, **kwargs: Any) -> Any:
        writer = connection._writer  # noqa: SLF001 - aiokafka has no public name for it
        closed = close(connection, *args, **kwargs)
        if writer is not None and connection._ssl_context is not None:  # noqa: SLF001 - as above
            connection._loop.call_later(_CLOSE_WITHIN_S, writer.transport.abort)  # noqa: SLF001 - as above
        return closed

    AIOKafkaConnection.close = close_in_time
