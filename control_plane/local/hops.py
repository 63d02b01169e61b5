"""How far records came: what a topic holds that its group has not committed, and which hop that blames."""

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING

from control_plane.local.probe import failing_checks
from inferlane.contracts.naming import Lane
from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_consumer, partitions_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.local.probe import Target
    from inferlane.runtime.config import Settings

# A commit follows its batch within `commit_interval_s`; a hop that moves nothing for this long is stuck.
_PROGRESS_WITHIN_S = 5.0
_UNKNOWN: "Mapping[str, str]" = MappingProxyType({})


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


async def router_progress(settings: "Settings", *, ops_url: str = "") -> str:
    """Say how much waits for the router; `ops_url` is where it may be asked what is wrong.

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
            f"{end - before} records wait in {topic}; none was taken for {_PROGRESS_WITHIN_S:g} s. "
            f"{await _own_word('router', ops_url)}"
        )
    return f"{end - after} records wait, {after - before} were taken in {_PROGRESS_WITHIN_S:g} s"


async def holding_hop(
    settings: "Settings", target: "Target", *, lane: Lane = Lane.REQUESTS, ops_urls: "Mapping[str, str]" = _UNKNOWN
) -> str:
    """Say which hop holds a request that was accepted and not answered, and what that hop says of itself.

    `ops_urls` is where `router`, `worker` and `api` may be asked.

    Raises:
        UnavailableError: the broker does not answer.
    """
    names = settings.names
    ingress = names.ingress[lane]
    committed, end = await committed_and_end(settings, ingress, names.router_group)
    if committed < end:
        return (
            f"the router has not taken it: {end - committed} wait in {ingress}. "
            f"{await _own_word('router', ops_urls.get('router', ''))}"
        )
    topic = names.work_topic(target.model, target.version, lane)
    committed, end = await committed_and_end(settings, topic, names.worker_group(target.model, target.version))
    if committed < end:
        return (
            f"no worker has answered it: {end - committed} wait in {topic}. "
            f"{await _own_word(f'worker of {target.model} {target.version}', ops_urls.get('worker', ''))}"
        )
    if lane is Lane.BULK:
        return f"a worker committed it, so its result is in {names.results}: it did not come from there to here"
    return (
        "a worker committed it, so its result is stored: the API does not hear the store. "
        f"{await _own_word('API', ops_urls.get('api', ''))}"
    )


async def _own_word(who: str, ops_url: str) -> str:
    """What a process says of itself: what mends it depends on that, and a restart mends little."""
    if not ops_url:
        return f"/readyz of the {who} says what is wrong with it, and its log why."
    try:
        failing = await failing_checks(ops_url)
    except UnavailableError as error:
        return f"The {who} does not answer: {error}. Its log says whether it ended, and why."
    if failing:
        return f"The {who} says that these are not well: {', '.join(failing)}. Its log says why."
    return f"The {who} says that it is well: it may be busy, or wait for what its log names."
