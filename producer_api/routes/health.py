"""Liveness, readiness and Prometheus metrics."""

from collections.abc import Mapping

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from inferlane.runtime.ops import EXPOSITION, health_body
from producer_api.services import Services, Wired

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def live(services: Wired) -> Response:
    """Whether the tasks of this process run."""
    return _answer(live_checks(services))


@router.get("/readyz")
async def ready(services: Wired) -> Response:
    """Whether this process can serve: its tasks run, the store takes writes and its wake-ups reach it."""
    store = {"store": services.room.is_subscribed, "store_writes": services.store_probe.takes_writes}
    return _answer({**live_checks(services), **store})


@router.get("/metrics")
async def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(EXPOSITION.text(), media_type=CONTENT_TYPE_LATEST)


def live_checks(services: Services) -> Mapping[str, bool]:
    """Each task that must never end, and whether it runs."""
    return {
        "backlog": services.admission.is_running,
        "delivered": services.delivered.is_running,
        "enqueuer": services.enqueuer.is_running,
        "splits": services.follower.is_running,
        "store_watch": services.store_watch.is_running,
        "waiting_room": services.room.is_running,
    }


def _answer(checks: Mapping[str, bool]) -> Response:
    status, body = health_body(checks)
    return Response(body, status_code=status, media_type="application/json")
