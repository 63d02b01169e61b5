"""One check for each part of a deployment; each says what it saw, or raises what is wrong and the remedy."""

import uuid
from typing import TYPE_CHECKING

from inferlane.errors import ConfigurationError, StoreFullError, UnavailableError
from inferlane.kafka.clients import broker_errors
from inferlane.result_store import connect, store_errors
from inferlane.stack.broker import broker_answers
from inferlane.stack.hops import holding_hop
from inferlane.stack.probe import Target, UnansweredError, failing_checks, predict
from inferlane.store_memory import StoreMemory
from inferlane.topics import make_admin, topic_specs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.config import Settings

# A probe takes milliseconds; a busy machine may make it wait its turn, a broken hop makes it wait for ever.
_PROBE_WAIT_S = 15.0
_PROBE_KEY_TTL_S = 10


async def check_broker(settings: "Settings") -> str:
    """A metadata request is answered.

    Raises:
        UnavailableError: it is not.
    """
    await broker_answers(settings)
    return settings.kafka_bootstrap_servers


async def check_topics(settings: "Settings", targets: "Sequence[Target]") -> str:
    """Every topic exists with the partitions that the settings say.

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
    """The store answers, takes a write, and refuses writes rather than evict results when it is full.

    Raises:
        UnavailableError: it does not answer or takes no write.
        ConfigurationError: it may evict results.
        StoreFullError: it has no room for the results of new requests.
    """
    key = settings.names.store_key("doctor", uuid.uuid4().hex)
    async with store_errors(settings.redis_url), connect(settings.redis_url) as redis:
        await redis.set(key, b"1", ex=_PROBE_KEY_TTL_S)
        if await redis.get(key) is None:
            raise UnavailableError("a key is gone right after its write. Is this a replica? INFERLANE_REDIS_URL")
        await redis.delete(key)
        memory = await redis.info("memory")
    policy, limit_bytes = memory["maxmemory_policy"], memory["maxmemory"]
    if limit_bytes and policy != "noeviction":
        raise ConfigurationError(f"maxmemory-policy is {policy}: a full store drops results. Set it to noeviction.")
    memory_used = StoreMemory.of(memory)
    if memory_used.share >= settings.store_full_share:
        raise StoreFullError(
            f"it uses {memory_used}, and the API lets new requests in below {settings.store_full_share:.0%} "
            "(INFERLANE_STORE_FULL_SHARE). Give it more memory (maxmemory), or keep results for a shorter time "
            "(INFERLANE_RESULT_TTL_S)."
        )
    limit = f"{limit_bytes / 2**20:.0f} MiB" if limit_bytes else "no limit: set maxmemory"
    return f"write and read back; {limit}, {memory['used_memory_human']} used, {policy}"


async def check_ready(url: str) -> str:
    """`/readyz` answers 200.

    Raises:
        UnavailableError: nobody answers, or a check fails; the message names the checks.
    """
    if failing := await failing_checks(url):
        raise UnavailableError(f"{url}/readyz: failing {', '.join(failing)}. Its log says why.")
    return url


async def check_prediction(settings: "Settings", api_url: str, target: Target) -> str:
    """A request comes back through every hop.

    Raises:
        UnavailableError: it does not; the message names the hop that holds it.
    """
    try:
        duration_s = await predict(api_url, target, wait_s=_PROBE_WAIT_S, api_key=settings.api_key)
    except UnansweredError as error:
        raise UnavailableError(f"{error}: {await holding_hop(settings, target)}") from error
    return f"{duration_s * 1000:.0f} ms"
