"""How far records came: what a topic holds that its group has not committed, and which hop that blames."""

import asyncio
from typing import TYPE_CHECKING

from inferlane.errors import UnavailableError
from inferlane.kafka.clients import broker_errors, make_consumer, partitions_of
from inferlane.naming import Lane

if TYPE_CHECKING:
    from inferlane.config import Settings
    from inferlane.stack.probe import Target

# A commit follows its batch within `commit_interval_s`; a hop that moves nothing for this long is stuck.
_PROGRESS_WITHIN_S = 5.0


async def committed_and_end(settings: "Settings", topic: str, group: str) -> tuple[int, int]:
    """Return the sums, over all partitions, of what the group committed and of what the topic holds.

    Raises:
        UnavailableError: the broker does not answer, or has no such topic.
    """
    partitions = await partitions_of(settings, topic)
    consumer = make_consumer(settings, group=group)
    with broker_errors(settings.kafka_bootstrap_servers):
        try:
            await consumer.start()
            ends = await consumer.end_offsets(partitions)
            committed = [await consumer.committed(partition) or 0 for partition in partitions]
        finally:
            await consumer.stop()
    return sum(committed), sum(ends.values())


async def router_progress(settings: "Settings") -> str:
    """Say how much waits for the router.

    Raises:
        UnavailableError: records wait and none of them is taken.
    """
    topic, group = settings.names.ingress[Lane.REQUESTS], settings.names.router_group
    before, end = await committed_and_end(settings, topic, group)
    if before >= end:
        return "nothing waits for it"
    await asyncio.sleep(_PROGRESS_WITHIN_S)
    after, _ = await committed_and_end(settings, topic, group)
    if after == before:
        raise UnavailableError(
            f"{end - before} records wait in {topic}; none was taken for {_PROGRESS_WITHIN_S:g} s. Restart the router."
        )
    return f"{end - after} records wait, {after - before} were taken in {_PROGRESS_WITHIN_S:g} s"


async def holding_hop(settings: "Settings", target: "Target") -> str:
    """Say which hop holds a request that was accepted and not answered, and what to do about it.

    Raises:
        UnavailableError: the broker does not answer.
    """
    names = settings.names
    ingress = names.ingress[Lane.REQUESTS]
    committed, end = await committed_and_end(settings, ingress, names.router_group)
    if committed < end:
        return (
            f"the router has not taken it: {end - committed} wait in {ingress}. Look at the router's log, restart it."
        )
    topic = names.work_topic(target.model, target.version, Lane.REQUESTS)
    committed, end = await committed_and_end(settings, topic, names.worker_group(target.model, target.version))
    if committed < end:
        return (
            f"no worker has answered it: {end - committed} wait in {topic}. "
            f"Look at the logs of the workers of {target.model} {target.version}, start more of them."
        )
    return "a worker committed it, so its result is stored: the API does not hear the store. Restart the API."
