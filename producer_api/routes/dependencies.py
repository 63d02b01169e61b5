"""What routes share: the services of the process, tables that are up to date, and the check for repeated parameters."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from inferlane.errors import quoted
from producer_api.http.error_responses import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis.asyncio import Redis

    from inferlane.runtime.catalog_table import CatalogFollower
    from inferlane.runtime.compacted_table import TableFollower
    from inferlane.runtime.config import Settings
    from inferlane.runtime.redis.cancellations import Cancellations
    from inferlane.runtime.redis.feedback_store import FeedbackStore
    from inferlane.runtime.redis.result_store import ResultStore
    from inferlane.runtime.redis.shadow_results import ShadowResults
    from inferlane.runtime.redis.store_probe import StoreProbe
    from inferlane.runtime.redis.version_faults import VersionFaults
    from inferlane.runtime.redis.window_store import WindowStore
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable
    from inferlane.runtime.split_table import SplitFollower, SplitTable
    from inferlane.runtime.tracing.spans import Tracing
    from models.live_catalog import AnyCatalog
    from producer_api.http.request_body import BodyMemory
    from producer_api.http.shared_metrics import SharedMetrics
    from producer_api.predict.admission import Admission
    from producer_api.predict.call import CallReader
    from producer_api.predict.endpoint import ResponseBuilder
    from producer_api.predict.enqueuer import Enqueuer, FeedbackSender
    from producer_api.predict.event_streams import EventStreams
    from producer_api.predict.exchange import Exchanges
    from producer_api.predict.pending import PendingRequests
    from producer_api.predict.store_capacity import DeliveredResults, StoreCapacity
    from producer_api.predict.submitter import Submitter

_CATCH_UP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a running API process, as routes use them."""

    settings: "Settings"
    catalog: "AnyCatalog"
    clock: "Clock"
    redis: "Redis"
    store_probe: "StoreProbe"
    store: "ResultStore"
    pending: "PendingRequests"
    enqueuer: "Enqueuer"
    admission: "Admission"
    store_capacity: "StoreCapacity"
    delivered: "DeliveredResults"
    reader: "CallReader"
    submitter: "Submitter"
    exchanges: "Exchanges"
    body_memory: "BodyMemory"
    responses: "ResponseBuilder"
    exposition: "SharedMetrics"
    streams: "EventStreams"
    splits: "SplitTable"
    follower: "SplitFollower"
    rollouts: "RolloutTable"
    rollout_follower: "RolloutFollower"
    catalog_follower: "CatalogFollower"
    windows: "WindowStore"
    shadow_results: "ShadowResults"
    feedback_store: "FeedbackStore"
    feedback: "FeedbackSender"
    cancellations: "Cancellations"
    faults: "VersionFaults"
    # What a call needs before it is looked at: keys that can be read, a certificate that is valid.
    edge_checks: "Callable[[], Mapping[str, bool]]" = dict
    tracing: "Tracing | None" = None


async def catch_up(services: Services, *followers: "TableFollower") -> None:
    """Return when the tables of these followers hold what was written to their topics before the call.

    What another API process or a router has answered may be newer than what was read here. Where the broker does not
    answer in time, the call goes on with what is known.
    """
    timeout_s = min(_CATCH_UP_S, services.settings.api.default_wait_s / 2)
    await asyncio.gather(*(follower.catch_up(timeout_s=timeout_s) for follower in followers))


async def services_of(request: Request) -> Services:
    """The services of the app that serves `request`. A coroutine, as FastAPI calls a plain function in a thread."""
    services: Services = request.app.state.services
    return services


AppServices = Annotated[Services, Depends(services_of)]


async def refuse_repeated(request: Request) -> None:
    """Return if no query parameter is repeated: of two values, a proxy in front may have read the other one.

    Raises:
        InvalidParameterError: a parameter is repeated.
    """
    query = request.scope["query_string"].decode("latin-1")
    if query.count("=") < 2:  # noqa: PLR2004 - one parameter cannot be repeated
        return
    for name, count in Counter(name for name, _ in parse_qsl(query, keep_blank_values=True)).items():
        if count > 1:
            raise InvalidParameterError(
                f"the parameter {quoted(name)} is there {count} times, so it is not clear which counts; send it once"
            )
