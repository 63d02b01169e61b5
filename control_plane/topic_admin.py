"""Partitions and retention of every topic; their names are in `inferlane.contracts.naming`."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from control_plane.topic_settings import read_topic_settings, refuse_harmful
from inferlane.contracts.naming import CALLBACK_STAGES, Lane
from inferlane.errors import UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, make_admin, record_limit_bytes

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.service_settings import WebhookSettings
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)


_DAY_MS = 24 * 3600 * 1000
# Longer than callbacks are tried, which is two days at most.
_CALLBACKS_RETENTION_MS = 3 * _DAY_MS
# As long as `outcome_window_s` may be.
_OUTCOMES_RETENTION_MS = _DAY_MS
_FEEDBACK_RETENTION_MS = 30 * _DAY_MS
_DEAD_LETTERS_RETENTION_MS = 30 * _DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """The specification of a topic."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def topic_specs(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", versions: Iterable[tuple[str, str]]
) -> tuple[TopicSpec, ...]:
    """Return every topic that these `(model, version)` pairs need."""
    size = {"max.message.bytes": str(record_limit_bytes(kafka))}
    retention = {"retention.ms": str(int(kafka.request_retention_s * 1000))} | size
    shared = [
        *(
            TopicSpec(name=name, partitions=kafka.ingress_partitions, config=retention)
            for name in names.ingress.values()
        ),
        TopicSpec(name=names.results, partitions=kafka.ingress_partitions, config=retention),
        TopicSpec(name=names.outcomes, partitions=1, config={"retention.ms": str(_OUTCOMES_RETENTION_MS)}),
        TopicSpec(name=names.feedback, partitions=1, config={"retention.ms": str(_FEEDBACK_RETENTION_MS)}),
        TopicSpec(
            name=names.dead_letters,
            partitions=1,
            config={"retention.ms": str(_DEAD_LETTERS_RETENTION_MS)} | size,
        ),
        *(
            TopicSpec(name=name, partitions=1, config={"cleanup.policy": "compact"})
            for name in (names.splits, names.catalog, names.rollouts)
        ),
    ]
    work = [
        TopicSpec(name=names.work_topic(model, version, lane), partitions=kafka.work_partitions, config=retention)
        for model, version in versions
        for lane in Lane
    ]
    return (*shared, *_callback_specs(kafka, names, webhooks, size), *work)


def _callback_specs(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", size: dict[str, str]
) -> tuple[TopicSpec, ...]:
    """Return the topics of callbacks. Those of retries have one partition: its first record is due first."""
    if not webhooks.enabled:
        return ()
    retention = {"retention.ms": str(_CALLBACKS_RETENTION_MS)} | size
    waiting = (names.callback_retries(stage) for stage in range(1, CALLBACK_STAGES + 1))
    return (
        TopicSpec(name=names.callbacks, partitions=kafka.ingress_partitions, config=retention),
        *(TopicSpec(name=name, partitions=1, config=retention) for name in waiting),
    )


# Topics are created in milliseconds, or in a second by a busy broker.
_SHOWN_POLL_S = 0.05


async def create_topics(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", versions: Iterable[tuple[str, str]]
) -> tuple[str, ...]:
    """Create the topics that do not exist yet and return their names; existing ones stay as they are.

    Returns once the broker lists the new topics, which on Apache Kafka is a little after it has created them.

    Raises:
        UnavailableError: the broker does not answer, or refuses a topic.
    """
    specs = topic_specs(kafka, names, webhooks, versions)
    admin = make_admin(kafka)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            await _create(admin, kafka, missing)
            async with asyncio.timeout(kafka.request_timeout_ms / 1000):
                await _wait_until_shown(admin, {spec.name for spec in missing})
    except (KafkaError, OSError, TimeoutError) as error:
        raise UnavailableError(
            f"cannot create topics on {kafka.bootstrap_servers}: {error!r}. `inferlane doctor` tries what "
            "stands between; topics that are there already stay as they are, so the same call may be made again."
        ) from error
    finally:
        await admin.close()
    return tuple(spec.name for spec in missing)


async def check_existing(
    kafka: "KafkaSettings", names: "Names", webhooks: "WebhookSettings", versions: Iterable[tuple[str, str]]
) -> None:
    """Return if no existing topic has settings that lose or refuse records, as far as the broker tells them.

    Raises:
        UnavailableError: the broker does not answer.
        ConfigurationError: one has.
    """
    specs = topic_specs(kafka, names, webhooks, versions)
    admin = make_admin(kafka)
    with broker_errors(kafka.bootstrap_servers):
        try:
            await admin.start()
            existing = set(await admin.list_topics())
            found = await read_topic_settings(admin, [spec.name for spec in specs if spec.name in existing])
        finally:
            await admin.close()
    refuse_harmful({spec.name: spec.config for spec in specs}, found)


async def _create(admin: AIOKafkaAdminClient, kafka: "KafkaSettings", missing: list[TopicSpec]) -> None:
    response = await admin.create_topics(
        [
            NewTopic(
                name=spec.name,
                num_partitions=spec.partitions,
                replication_factor=kafka.replication_factor,
                topic_configs=spec.config,
            )
            for spec in missing
        ]
    )
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        # Two processes that start at once may both create a topic: the second one finds it existing.
        if code and error is not TopicAlreadyExistsError:
            raise error(f"topic {name}")
    log.info("topics_created", topics=[spec.name for spec in missing])


async def _wait_until_shown(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    while not names <= set(await admin.list_topics()):  # noqa: ASYNC110 - a broker has no event for it
        await asyncio.sleep(_SHOWN_POLL_S)
