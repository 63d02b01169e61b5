"""The lanes of a version: how its two work topics are read, and by whom."""

from typing import TYPE_CHECKING, Any

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lanes import IDLE_WAIT_S, BatchSource, LaneOptions, Lanes

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.attempts import AttemptLog, Isolation
    from inferlane.runtime.retry import Retrier
    from inferlane.runtime.service_settings import WorkerSettings
    from inferlane.runtime.settings import KafkaSettings
    from workers.failure_limit import FailureLimit
    from workers.pipeline import Pipeline

# Bulk records per fetched batch; each holds hundreds of rows. Fewer make more round trips for the same results and
# leave the model idle during a fetch; more take longer until the first result. Large records are limited by their
# bytes, as in every lane. As many as a worker sends shadow copies in one write (`workers.copy_gatherer`).
_BULK_RECORDS_PER_FETCH = 64
# After a death the record that kills is looked for among few.
_BULK_RECORDS_AFTER_A_DEATH = 8
# How often a lane checks for a stop that also wakes it: with fifty versions each check costs CPU.
_WOKEN_WAIT_S = 10.0
# Most models run, and the store answers, sooner: what comes meanwhile is one batch and not two (docs/adr/0042).
_APART_S = 0.015


def worker_lanes(  # noqa: PLR0913 - one for each part that it drives
    worker: "WorkerSettings",
    kafka: "KafkaSettings",
    names: "Names",
    pipeline: "Pipeline",
    *,
    limit: "FailureLimit",
    retrier: "Retrier",
    attempt_log: "AttemptLog | None" = None,
    source: "Callable[..., BatchSource] | None" = None,
    isolation: "Isolation | None" = None,
) -> Lanes:
    """Return the lanes of a version: both its work topics, fetched as far as the failure limit allows.

    `source` creates the batch source of a topic, with the arguments of a `LaneConsumer`; None: its own consumer.
    `isolation` is shared by all versions of the process.
    """
    version = pipeline.version

    def options(lane: Lane) -> LaneOptions:
        arguments: dict[str, Any] = {
            "topic": names.work_topic(version.model, version.version, lane),
            "group": names.worker_group(version.model, version.version),
            "lane": lane,
            "is_blocked": lambda: retrier.is_retrying or limit.is_halted,
            "attempt_log": attempt_log,
            "in_flight": worker.batches_in_flight,
        }
        consumer: BatchSource = LaneConsumer(kafka, **arguments) if source is None else source(**arguments)

        def bulk_records() -> int:
            return _BULK_RECORDS_AFTER_A_DEATH if consumer.is_hurried else _BULK_RECORDS_PER_FETCH

        return LaneOptions(
            consumer=consumer,
            max_records=bulk_records if lane is Lane.BULK else lambda: worker.max_batch_rows,
            in_flight=worker.batches_in_flight,
            idle_wait_s=IDLE_WAIT_S if source is None else _WOKEN_WAIT_S,
            # Bulk results are waited for by nobody: the next batch is decoded while the model runs.
            apart_s=_APART_S if lane is Lane.REQUESTS else 0.0,
        )

    return Lanes(
        {lane: options(lane) for lane in Lane},
        work=pipeline.serve,
        give_up=pipeline.give_up,
        retrier=retrier,
        allowance=limit.allowance,
        isolation=isolation,
    )
