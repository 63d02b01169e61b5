"""What the routes need, built once and handed to them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.runtime.config import Settings
    from inferlane.runtime.redis.cancellations import Cancellations
    from inferlane.runtime.redis.health import StoreProbe
    from inferlane.runtime.redis.results import ResultStore
    from inferlane.runtime.redis.versions import VersionFaults, WindowStore
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.splits import SplitFollower, SplitTable
    from inferlane.runtime.tracing.spans import Tracing
    from models.catalog import Catalog
    from producer_api.admission import Admission
    from producer_api.enqueueing import Enqueuer
    from producer_api.idempotency import Once
    from producer_api.predict_endpoint import Answerer
    from producer_api.predicting import CallReader
    from producer_api.store_watch import Delivered, StoreWatch
    from producer_api.submitting import Submitter
    from producer_api.telemetry import AnswerCounts
    from producer_api.waiting import WaitingRoom


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: "Settings"
    catalog: "Catalog"
    clock: "Clock"
    redis: "Redis"
    store_probe: "StoreProbe"
    store: "ResultStore"
    room: "WaitingRoom"
    enqueuer: "Enqueuer"
    admission: "Admission"
    store_watch: "StoreWatch"
    delivered: "Delivered"
    reader: "CallReader"
    submitter: "Submitter"
    once: "Once"
    counts: "AnswerCounts"
    answerer: "Answerer"
    splits: "SplitTable"
    follower: "SplitFollower"
    windows: "WindowStore"
    cancellations: "Cancellations"
    faults: "VersionFaults"
    tracing: "Tracing | None" = None


def services_of(request: Request) -> Services:
    """The services of the app that serves `request`."""
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(services_of)]
