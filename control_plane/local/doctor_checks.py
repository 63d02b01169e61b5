"""The checks of `inferlane doctor`: each returns what it saw, or raises an error with the remedy."""

import asyncio
import shutil
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control_plane.local.embedded_parts import broker_answers
from control_plane.local.hop_progress import holding_hop
from control_plane.local.probe import Target, UnansweredError, ask_readiness, predict
from control_plane.local.profile import holder_of, is_free
from control_plane.local.readiness import failing_checks
from control_plane.local.stack_report import folder_fault
from control_plane.topic_admin import topic_specs
from control_plane.topic_settings import read_topic_settings, refuse_harmful
from inferlane.contracts.results import Result, Status
from inferlane.errors import ConfigurationError, StoreFullError, UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_admin
from inferlane.runtime.redis.connection import connect, know_nodes, memory_infos, store_errors
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.redis.store_probe import StoreMemory
from inferlane.runtime.runfile import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio.client import PubSub

    from inferlane.contracts.naming import Names
    from inferlane.runtime.http.api_address import ApiAddress
    from inferlane.runtime.service_settings import ApiSettings, ClientSettings, WebhookSettings
    from inferlane.runtime.settings import KafkaSettings, StackSettings

# A probe takes milliseconds; a busy machine may make it wait its turn, a broken hop makes it wait for ever.
_PROBE_WAIT_S = 15.0
_READY_WAIT_S = 5.0
_PROBE_KEY_TTL_S = 10
_WAKE_UP_WITHIN_S = 5.0
_OLDEST_STORE = 7


async def check_broker(kafka: "KafkaSettings") -> str:
    """Check that the broker answers a metadata request.

    Raises:
        UnavailableError: it is not.
    """
    await broker_answers(kafka)
    return kafka.bootstrap_servers


async def check_topics(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", targets: "Sequence[Target]"
) -> str:
    """Check that every topic exists, with the partitions of the settings or more: they may be added at any time.

    Raises:
        UnavailableError: the broker does not answer, or topics are missing.
        ConfigurationError: a topic has fewer partitions, or settings that lose or refuse records.
    """
    expected = topic_specs(kafka, names, webhooks, [(target.model, target.version) for target in targets])
    admin = make_admin(kafka)
    with broker_errors(kafka.bootstrap_servers):
        try:
            await admin.start()
            existing = set(await admin.list_topics())
            present = [spec.name for spec in expected if spec.name in existing]
            described = await admin.describe_topics(present) if present else []
            configs = await read_topic_settings(admin, present)
        finally:
            await admin.close()
    if missing := [spec.name for spec in expected if spec.name not in existing]:
        raise UnavailableError(f"missing: {', '.join(missing)}. Create them with `inferlane topics create`.")
    partitions = {entry["topic"]: len(entry["partitions"]) for entry in described}
    if fewer := [
        f"{spec.name} has {partitions[spec.name]}, not {spec.partitions}"
        for spec in expected
        if partitions[spec.name] < spec.partitions
    ]:
        raise ConfigurationError(
            f"partitions: {'; '.join(fewer)}. Add partitions to the topics, or set INFERLANE_INGRESS_PARTITIONS and "
            "INFERLANE_WORK_PARTITIONS to what they have."
        )
    refuse_harmful({spec.name: spec.config for spec in expected}, configs)
    more = [
        f"{spec.name} has {partitions[spec.name]} partitions, more than the {spec.partitions} of the settings"
        for spec in expected
        if partitions[spec.name] > spec.partitions
    ]
    hidden = len([spec for spec in expected if spec.name not in configs])
    unseen = [f"the broker does not tell the settings of {hidden} of them"] if hidden else []
    return "; ".join([f"{len(expected)} topics", *unseen, *more])


async def check_store(api: "ApiSettings", redis_url: str, names: "Names") -> str:
    """Check that the store accepts a result, returns it, delivers the wake-up message, and never evicts.

    Raises:
        UnavailableError: it does not answer, refuses one of these, or no wake-up came.
        ConfigurationError: it is too old, or may evict results.
        StoreFullError: it has no room for the results of new requests.
    """
    name = f"doctor-{uuid.uuid4().hex}"
    result = Result(request_id=name, status=Status.EXPIRED, model="", version="")
    async with store_errors(redis_url), connect(redis_url) as redis:
        store = ResultStore(redis, redis_url=redis_url, result_ttl_s=_PROBE_KEY_TTL_S, names=names)
        await know_nodes(redis)
        server, memories = await redis.info("server"), await memory_infos(redis)
        _refuse_old(server["redis_version"])
        # Before the write, which a full store refuses in other words.
        memory = _check_memory(api, memories)
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
                    f"{names.prefix}:*, and a proxy in front of it must pass on PUBLISH and SUBSCRIBE"
                )
    return f"result and wake-up came back; {memory}"


def _check_memory(api: "ApiSettings", memories: "Sequence[Mapping[str, Any]]") -> str:
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
    if memory_used.share >= api.store_full_share:
        raise StoreFullError(
            f"it uses {memory_used}, and the API lets new requests in below {api.store_full_share:.0%} "
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


async def check_state_dir(stack: "StackSettings") -> str:
    """Check that logs and run file of the local stack can be written, and that there is room for them.

    Raises:
        ConfigurationError: they cannot, or there is little room.
    """
    if fault := folder_fault(stack.state_dir):
        raise ConfigurationError(
            f"{fault}. The stack goes on meanwhile; make room there, or start it with another INFERLANE_STATE_DIR."
        )
    return f"{stack.state_dir}, {shutil.disk_usage(stack.state_dir).free / 2**30:.1f} GiB free"


async def check_ready(url: str) -> str:
    """`/readyz` of a process here answers 200.

    Raises:
        UnavailableError: nobody answers, or a check fails; the message names the checks.
    """
    return _well(url, await failing_checks(url))


async def check_api(api: "ApiAddress") -> str:
    """As `check_ready`, as clients reach the API; if what holds its port is no API of ours, the message names it.

    Raises:
        UnavailableError: as `check_ready`.
        ConfigurationError: the file of its authority cannot be read.
    """
    try:
        failing = await ask_readiness(api, wait_s=_READY_WAIT_S)
    except UnavailableError as error:
        parts = urlsplit(api.url)
        if not is_loopback(parts.hostname or "") or parts.port is None or is_free(parts.port):
            raise
        said = str(error).rstrip(".")
        raise UnavailableError(f"{said}. Port {parts.port} here is held by {holder_of(parts.port)}.") from error
    return _well(api.url, failing)


def _well(url: str, failing: "Sequence[str]") -> str:
    if failing:
        raise UnavailableError(f"{url}/readyz: failing {', '.join(failing)}. Its log says why.")
    return url


async def check_prediction(
    client: "ClientSettings",
    kafka: "KafkaSettings",
    names: "Names",
    api: "ApiAddress",
    target: Target,
    *,
    ops_urls: "Mapping[str, str]",
) -> str:
    """Check that a request is answered through every hop.

    Raises:
        UnavailableError: it does not; the message names the hop that holds it.
    """
    try:
        duration_s = await predict(api, target, wait_s=_PROBE_WAIT_S, api_key=client.key)
    except UnansweredError as error:
        held = await holding_hop(kafka, names, target, ops_urls=ops_urls)
        raise UnavailableError(f"{error}: {held}") from error
    return f"{duration_s * 1000:.0f} ms"
