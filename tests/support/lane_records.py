"""The records that a lane's consumer fetches."""

import asyncio
from collections.abc import Sequence

from inferlane.runtime.kafka.consumer import LaneConsumer

WAIT_S = 120.0


async def values(consumer: LaneConsumer, count: int) -> Sequence[bytes | None]:
    """The values of so many records, as they come."""
    found: list[bytes | None] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            batch = await consumer.fetch(max_records=100, timeout_s=0.5)
            if batch is not None:
                found += [record.value for record in batch.records]
                consumer.finish(batch)
    return found
