"""The host of rollouts with all that it works with."""

from typing import TYPE_CHECKING

from inferlane.runtime.dead_letter_replay import Replayer, retry_failed
from inferlane.runtime.redis.feedback_store import FeedbackStore
from inferlane.runtime.rerouting import MovedRequests, reroute_backlog
from inferlane.runtime.retry import SystemClock
from router.rollouts.candidate_watch import CandidateWatch
from router.rollouts.clearance import Clearance
from router.rollouts.decision_writer import RolloutWriter
from router.rollouts.host import Outcomes, RolloutHost
from router.rollouts.outside_reader import OutsideReader

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.rollout import RolloutSpec, RolloutState
    from inferlane.runtime.config import Settings
    from inferlane.runtime.followed_tables import FollowedTables
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.redis.result_store import ResultStore
    from inferlane.runtime.service_clients import ServiceClients
    from models.live_catalog import AnyCatalog

# How long the host waits for the end of the two topics that it decides by.
_READ_WITHIN_S = 2.0


def rollout_host(
    settings: "Settings",
    clients: "ServiceClients",
    tables: "FollowedTables",
    *,
    catalog: "AnyCatalog",
    results: "ResultStore",
    outcomes: Outcomes,
) -> RolloutHost:
    """Return the host of a router that reads `outcomes`."""
    clock = SystemClock()

    async def read_to_end() -> None:
        await tables.read_decisions_to_end(timeout_s=_READ_WITHIN_S)

    return RolloutHost(
        settings.outcomes,
        outcomes=outcomes,
        rollouts=tables.rollouts,
        splits=tables.splits,
        writer=RolloutWriter(settings.kafka, settings.stack.names, clients.producer),
        read_to_end=read_to_end,
        clearance=_clearance(settings, clients.redis, clients.producer, results),
        outside=OutsideReader(settings.rollouts, feedback=feedback_store(settings, clients.redis), clock=clock),
        watch=CandidateWatch(
            settings.api,
            settings.kafka,
            settings.stack.names,
            catalog=catalog,
            producer=clients.producer,
            results=results,
            clock=clock,
        ),
        clock=clock,
    )


def feedback_store(settings: "Settings", redis: "Redis") -> FeedbackStore:
    """Return the store of what was reported on predictions."""
    return FeedbackStore(
        redis, redis_url=settings.store.redis_url, names=settings.stack.names, remember_s=settings.feedback.max_age_s
    )


def _clearance(settings: "Settings", redis: "Redis", producer: "BatchProducer", results: "ResultStore") -> Clearance:
    names, clock = settings.stack.names, SystemClock()
    moved = MovedRequests(redis, redis_url=settings.store.redis_url, names=names, clock=clock)
    replayer = Replayer(
        settings.api,
        settings.kafka,
        settings.store,
        settings.stack,
        store=results,
        producer=producer,
        clock=clock,
    )

    async def reroute(spec: "RolloutSpec") -> None:
        await reroute_backlog(
            settings.kafka,
            names,
            model=spec.model,
            version=spec.candidate,
            to_version=spec.stable,
            producer=producer,
            moved=moved,
        )

    async def retry(state: "RolloutState") -> int:
        return await retry_failed(
            settings.kafka, names, replayer, rollout=state.id, spec=state.spec, since_s=state.created_s
        )

    return Clearance(reroute=reroute, retry_failed=retry)
