"""The checks of `inferlane doctor`: each returns what it saw, or raises an error with the remedy."""

import asyncio
import shutil
import uuid
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control_plane.local.embedded_parts import broker_answers
from control_plane.local.probe import Target, UnansweredError, predict
from control_plane.local.profile import holder_of, is_free
from control_plane.local.readiness import failing_checks
from control_plane.local.stack_report import folder_fault
from inferlane.contracts.naming import Lane
from inferlane.contracts.results import Result, Status
from inferlane.errors import ConfigurationError, StoreFullError, UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_admin, make_consumer, partitions_of
from inferlane.runtime.kafka.topic_admin import topic_specs
from inferlane.runtime.redis.connection import know_nodes, memory_infos
from inferlane.runtime.redis.result_store import ResultStore, connect, store_errors
from inferlane.runtime.redis.store_probe import StoreMemory
from inferlane.runtime.runfile import is_loopback

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from redis.asyncio.client import PubSub

    from inferlane.runtime.config import Settings
    from inferlane.runtime.http.api_address import ApiAddress
    from inferlane.runtime.settings import ApiSettings, KafkaSettings, StackSettings

# A commit follows its batch within `commit_interval_s`; a hop that moves nothing for this long is stuck.
_PROGRESS_WITHIN_S = 5.0
_UNKNOWN: "Mapping[str, str]" = MappingProxyType({})


async def committed_and_end(settings: "KafkaSettings", topic: str, group: str) -> tuple[int, int]:
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


async def router_progress(settings: "KafkaSettings", *, ops_url: str = "") -> str:
    """Describe the router's consumer lag; `ops_url` is the address of its readiness checks.

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
    settings: "KafkaSettings", target: "Target", *, lane: Lane = Lane.REQUESTS, ops_urls: "Mapping[str, str]" = _UNKNOWN
) -> str:
    """Return which hop holds a request that was accepted and not answered, and the state of that hop.

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


# A probe takes milliseconds; a busy machine may make it wait its turn, a broken hop makes it wait for ever.
_PROBE_WAIT_S = 15.0
_PROBE_KEY_TTL_S = 10
_WAKE_UP_WITHIN_S = 5.0
_OLDEST_STORE = 7


async def check_broker(settings: "KafkaSettings") -> str:
    """Check that the broker answers a metadata request.

    Raises:
        UnavailableError: it is not.
    """
    await broker_answers(settings)
    return settings.kafka_bootstrap_servers


async def check_topics(settings: "Settings", targets: "Sequence[Target]") -> str:
    """Check that every topic exists with the partitions of the settings.

    Raises:
        UnavailableError: the broker does not answer, or topics are missing.
        ConfigurationError: a topic has another number of partitions.
    """
    expected = topic_specs(settings, [(target.model, target.version) for target in targets])
    admin = make_admin(settings)
    with broker_errors(settings.kafka_bootstrap_servers):
        try:
            await admin.start()
            existing = set(await admin.list_topics())
            present = [spec.name for spec in expected if spec.name in existing]
            described = await admin.describe_topics(present) if present else []
        finally:
            await admin.close()
    if missing := [spec.name for spec in expected if spec.name not in existing]:
        raise UnavailableError(f"missing: {', '.join(missing)}. Create them with `inferlane topics create`.")
    partitions = {entry["topic"]: len(entry["partitions"]) for entry in described}
    if other := [
        f"{spec.name} has {partitions[spec.name]}, not {spec.partitions}"
        for spec in expected
        if partitions[spec.name] != spec.partitions
    ]:
        raise ConfigurationError(
            f"partitions: {'; '.join(other)}. Set INFERLANE_INGRESS_PARTITIONS and INFERLANE_WORK_PARTITIONS to what "
            "the topics have, or create the topics anew."
        )
    return f"{len(expected)} topics"


async def check_store(settings: "Settings") -> str:
    """Check that the store accepts a result, returns it, delivers the wake-up message, and never evicts.

    Raises:
        UnavailableError: it does not answer, refuses one of these, or no wake-up came.
        ConfigurationError: it is too old, or may evict results.
        StoreFullError: it has no room for the results of new requests.
    """
    name = f"doctor-{uuid.uuid4().hex}"
    result = Result(request_id=name, status=Status.EXPIRED, model="", version="")
    async with store_errors(settings.redis_url), connect(settings.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.redis_url, result_ttl_s=_PROBE_KEY_TTL_S, names=settings.names)
        await know_nodes(redis)
        server, memories = await redis.info("server"), await memory_infos(redis)
        _refuse_old(server["redis_version"])
        # Before the write, which a full store refuses in other words.
        memory = _check_memory(settings, memories)
        async with redis.pubsub() as listening:
            await listening.subscribe(store.wake_up_channel(name))
            await store.put([result], wake={name: [result]})
            if await store.get([name]) != [result]:
                raise UnavailableError(
                    "a result is gone right after its write: INFERLANE_REDIS_URL names a replica, or two different "
                    "stores behind one address"
                )
            if not await _hears(listening):
                raise UnavailableError(
                    f"a result was written and its wake-up did not come within {_WAKE_UP_WITHIN_S:g} s: clients would "
                    "wait a second for each answer. The user of the store must be allowed the channels "
                    f"{settings.names.prefix}:*, and a proxy in front of it must pass on PUBLISH and SUBSCRIBE"
                )
    return f"result and wake-up came back; {memory}"


def _check_memory(settings: "ApiSettings", memories: "Sequence[Mapping[str, Any]]") -> str:
    """Describe the memory limits and policies of the store's nodes, from their `INFO memory`.

    Raises:
        ConfigurationError: one of them may evict results.
        StoreFullError: one of them has no room for the results of new requests.
    """
    policy = ", ".join(sorted({memory["maxmemory_policy"] for memory in memories}))
    limit_bytes, used_bytes = (sum(memory[name] for memory in memories) for name in ("maxmemory", "used_memory"))
    if limit_bytes and policy != "noeviction":
        raise ConfigurationError(f"maxmemory-policy is {policy}: a full store drops results. Set it to noeviction.")
    memory_used = StoreMemory.of({str(number): memory for number, memory in enumerate(memories)})
    if memory_used.share >= settings.store_full_share:
        raise StoreFullError(
            f"it uses {memory_used}, and the API lets new requests in below {settings.store_full_share:.0%} "
            "(INFERLANE_STORE_FULL_SHARE). Give it more memory (maxmemory), or keep results for a shorter time "
            "(INFERLANE_RESULT_TTL_S)."
        )
    limit = f"{limit_bytes / 2**20:.0f} MiB" if limit_bytes else "no limit: set maxmemory"
    return f"{limit}, {used_bytes / 2**20:.1f} MiB used, {policy}"


def _refuse_old(version: str) -> None:
    """Return if the store supports `SET … NX GET`, which came with version 7.0."""
    if int(version.partition(".")[0]) < _OLDEST_STORE:
        raise ConfigurationError(f"the store is of version {version}; results need Redis or Valkey 7.0 or newer")


async def _hears(listening: "PubSub") -> bool:
    """Return whether a message arrives in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_WAKE_UP_WITHIN_S):
            async for message in listening.listen():
                if message["type"] == "message":
                    return True
    return False


async def check_state_dir(settings: "StackSettings") -> str:
    """Check that logs and run file of the local stack can be written, and that there is room for them.

    Raises:
        ConfigurationError: they cannot, or there is little room.
    """
    if fault := folder_fault(settings.state_dir):
        raise ConfigurationError(
            f"{fault}. The stack goes on meanwhile; make room there, or start it with another INFERLANE_STATE_DIR."
        )
    return f"{settings.state_dir}, {shutil.disk_usage(settings.state_dir).free / 2**30:.1f} GiB free"


async def check_ready(url: str, *, tls: "ssl.SSLContext | None" = None) -> str:
    """`/readyz` answers 200.

    Raises:
        UnavailableError: nobody answers, or a check fails; the message names the checks.
    """
    if failing := await failing_checks(url, tls=tls):
        raise UnavailableError(f"{url}/readyz: failing {', '.join(failing)}. Its log says why.")
    return url


async def check_api(api: "ApiAddress") -> str:
    """As `check_ready`; if another program holds the API's port, the message names it.

    Raises:
        UnavailableError: as `check_ready`.
        ConfigurationError: the file of its authority cannot be read.
    """
    try:
        return await check_ready(api.url, tls=api.tls())
    except UnavailableError as error:
        parts = urlsplit(api.url)
        if not is_loopback(parts.hostname or "") or parts.port is None or is_free(parts.port):
            raise
        raise UnavailableError(f"{error}. Port {parts.port} here is held by {holder_of(parts.port)}.") from error


async def check_prediction(
    settings: "Settings", api: "ApiAddress", target: Target, *, ops_urls: "Mapping[str, str]"
) -> str:
    """Check that a request is answered through every hop.

    Raises:
        UnavailableError: it does not; the message names the hop that holds it.
    """
    try:
        duration_s = await predict(api, target, wait_s=_PROBE_WAIT_S, api_key=settings.api_key)
    except UnansweredError as error:
        held = await holding_hop(settings, target, ops_urls=ops_urls)
        raise UnavailableError(f"{error}: {held}") from error
    return f"{duration_s * 1000:.0f} ms"
