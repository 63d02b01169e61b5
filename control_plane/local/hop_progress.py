"""How far the router and the workers are with what waits for them, and which of them holds a request."""

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING

from control_plane.local.readiness import failing_checks
from inferlane.contracts.naming import Lane
from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_consumer, partitions_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.local.probe import Target
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# A commit follows its batch within `commit_interval_s`; a hop that moves nothing for this long is stuck.
_PROGRESS_WITHIN_S = 5.0
_UNKNOWN: "Mapping[str, str]" = MappingProxyType({})


async def committed_and_end(kafka: "KafkaSettings", topic: str, group: str) -> tuple[int, int]:
    """Return the sums, over all partitions, of what the group committed and of what the topic holds.

    Raises:
        UnavailableError: the broker does not answer, or has no such topic.
    """
    partitions = await partitions_of(kafka, topic)
    consumer = make_consumer(kafka, group=group)
    with broker_errors(kafka.bootstrap_servers):
        try:
            await consumer.start()
            ends = await consumer.end_offsets(partitions)
            committed = [await consumer.committed(partition) or 0 for partition in partitions]
        finally:
            await consumer.stop()
    return sum(committed), sum(ends.values())


async def router_progress(kafka: "KafkaSettings", names: "Names", *, ops_url: str = "") -> str:
    """Describe the router's consumer lag; `ops_url` is the address of its readiness checks.

    Raises:
        UnavailableError: records wait and none of them is taken.
    """
    topic, group = names.ingress[Lane.REQUESTS], names.router_group
    before, end = await committed_and_end(kafka, topic, group)
    if before >= end:
        return "nothing waits for it"
    await asyncio.sleep(_PROGRESS_WITHIN_S)
    after, _ = await committed_and_end(kafka, topic, group)
    if after == before:
        raise UnavailableError(
            f"{end - before} records wait in {topic}; none was taken for {_PROGRESS_WITHIN_S:g} s. "
            f"{await own_word('router', ops_url)}"
        )
    return f"{end - after} records wait, {after - before} were taken in {_PROGRESS_WITHIN_S:g} s"


async def holding_hop(
    kafka: "KafkaSettings",
    names: "Names",
    target: "Target",
    *,
    lane: Lane = Lane.REQUESTS,
    ops_urls: "Mapping[str, str]" = _UNKNOWN,
) -> str:
    """Return which hop holds a request that was accepted and not answered, and the state of that hop.

    `ops_urls` is where `router`, `worker` and `api` may be asked.

    Raises:
        UnavailableError: the broker does not answer.
    """
    ingress = names.ingress[lane]
    committed, end = await committed_and_end(kafka, ingress, names.router_group)
    if committed < end:
        return (
            f"the router has not taken it: {end - committed} wait in {ingress}. "
            f"{await own_word('router', ops_urls.get('router', ''))}"
        )
    topic = names.work_topic(target.model, target.version, lane)
    committed, end = await committed_and_end(kafka, topic, names.worker_group(target.model, target.version))
    if committed < end:
        return (
            f"no worker has answered it: {end - committed} wait in {topic}. "
            f"{await own_word(f'worker of {target.model} {target.version}', ops_urls.get('worker', ''))}"
        )
    if lane is Lane.BULK:
        return f"a worker committed it, so its result is in {names.results}: it did not come from there to here"
    return (
        "a worker committed it, so its result is stored: the API does not hear the store. "
        f"{await own_word('API', ops_urls.get('api', ''))}"
    )


async def own_word(who: str, ops_url: str) -> str:
    """Return the state of a process by its own checks; the remedy depends on it, and is rarely a restart."""
    if not ops_url:
        return f"/readyz of the {who} says what is wrong with it, and its log why."
    try:
        failing = await failing_checks(ops_url)
    except UnavailableError as error:
        return f"The {who} does not answer: {error}. Its log says whether it ended, and why."
    if failing:
        return f"The {who} says that these are not well: {', '.join(failing)}. Its log says why."
    return f"The {who} says that it is well: it may be busy, or wait for what its log names."
