"""Names, partitions and retention of every topic, and the consumer groups that read them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from inferlane.broker_access import client_arguments
from inferlane.errors import UnavailableError

if TYPE_CHECKING:
    from inferlane.config import Settings

log = structlog.get_logger(__name__)


class Lane(StrEnum):
    """Whether somebody waits (`requests`) or throughput counts (`bulk`)."""

    REQUESTS = "requests"
    BULK = "bulk"


INGRESS = {Lane.REQUESTS: "inferlane.requests", Lane.BULK: "inferlane.bulk"}
RESULTS = "inferlane.results"
OUTCOMES = "inferlane.outcomes"
DEAD_LETTERS = "inferlane.dead-letters"
SPLITS = "inferlane.splits"

ROUTER_GROUP = "inferlane.router"
# The Faust agent that reads outcomes; Faust makes its app id the group.
OUTCOMES_GROUP = "inferlane.router.outcomes"


def work_topic(model: str, version: str, lane: Lane) -> str:
    """The topic that the workers of one version read."""
    return f"inferlane.{model}.{version}.{lane}"


def worker_group(model: str, version: str) -> str:
    """The consumer group of one version's workers."""
    return f"inferlane.{model}.{version}"


_DAY_MS = 24 * 3600 * 1000
# Shorter than the broker's offset retention (7 days), or a pool that slept would start over.
_RETENTION_MS = 3 * _DAY_MS
_OUTCOMES_RETENTION_MS = _DAY_MS
_DEAD_LETTERS_RETENTION_MS = 30 * _DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it must be."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def topic_specs(settings: "Settings", versions: Iterable[tuple[str, str]]) -> tuple[TopicSpec, ...]:
    """Every topic that these `(model, version)` pairs need."""
    retention = {"retention.ms": str(_RETENTION_MS), "max.message.bytes": str(record_limit_bytes(settings))}
    shared = [
        *(TopicSpec(name=name, partitions=settings.ingress_partitions, config=retention) for name in INGRESS.values()),
        TopicSpec(name=RESULTS, partitions=settings.ingress_partitions, config=retention),
        TopicSpec(name=OUTCOMES, partitions=1, config={"retention.ms": str(_OUTCOMES_RETENTION_MS)}),
        TopicSpec(
            name=DEAD_LETTERS,
            partitions=1,
            config=retention | {"retention.ms": str(_DEAD_LETTERS_RETENTION_MS)},
        ),
        TopicSpec(name=SPLITS, partitions=1, config={"cleanup.policy": "compact"}),
    ]
    work = [
        TopicSpec(name=work_topic(model, version, lane), partitions=settings.work_partitions, config=retention)
        for model, version in versions
        for lane in Lane
    ]
    return (*shared, *work)


# Room for keys, headers and the batch frame around a value of the largest size that we accept.
_FRAME_BYTES = 64 * 1024


def record_limit_bytes(settings: "Settings") -> int:
    """The largest record, framed, that a producer may send and a topic must take."""
    return max(settings.max_body_bytes, settings.max_result_bytes) + _FRAME_BYTES


def make_admin(settings: "Settings") -> AIOKafkaAdminClient:
    """A client for topics and groups; call its `start()` and `close()`."""
    return AIOKafkaAdminClient(**client_arguments(settings), request_timeout_ms=settings.kafka_request_timeout_ms)


async def create_topics(settings: "Settings", versions: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Create the topics that do not exist yet and return their names; existing ones stay as they are.

    Raises:
        UnavailableError: the broker does not answer, or refuses a topic.
    """
    specs = topic_specs(settings, versions)
    admin = make_admin(settings)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            await _create(admin, settings, missing)
    except (KafkaError, OSError) as error:
        raise UnavailableError(
            f"cannot create topics on {settings.kafka_bootstrap_servers}: {error!r}. Is the broker running?"
        ) from error
    finally:
        await admin.close()
    return tuple(spec.name for spec in missing)


async def _create(admin: AIOKafkaAdminClient, settings: "Settings", missing: list[TopicSpec]) -> None:
    response = await admin.create_topics(
        [
            NewTopic(
                name=spec.name,
                num_partitions=spec.partitions,
                replication_factor=settings.replication_factor,
                topic_configs=spec.config,
            )
            for spec in missing
        ]
    )
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        # Two processes that start at once may both create: the second finds it done.
        if code and error is not TopicAlreadyExistsError:
            raise error(f"topic {name}")
    log.info("topics_created", topics=[spec.name for spec in missing])
