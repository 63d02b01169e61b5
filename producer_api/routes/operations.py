"""For operators: liveness, readiness, Prometheus metrics of this process, and recent metrics of a version."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from msgspec.structs import replace
from prometheus_client import CONTENT_TYPE_LATEST

from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.ops import health_body
from producer_api.http.error_responses import InvalidParameterError
from producer_api.predict.endpoint import encode_json
from producer_api.predict.pending import answer_within, store_is_late
from producer_api.routes.dependencies import AppServices, Services, refuse_repeated

if TYPE_CHECKING:
    from inferlane.runtime.http.certificate import RenewedCertificate
    from producer_api.http.auth import KeyRing

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def live(services: AppServices) -> Response:
    """Whether the tasks of this process run."""
    return _answer(live_checks(services))


@router.get("/readyz")
async def ready(services: AppServices) -> Response:
    """Whether this process can serve: tasks run, the store works, keys can be read and the certificate is valid."""
    return _answer(ready_checks(services))


@router.get("/metrics")
async def metrics(services: AppServices) -> Response:
    """Prometheus metrics of the API processes on this port, each with its name as the label `process` if several."""
    return Response(await services.exposition.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/metrics/{version}", dependencies=[Depends(refuse_repeated)])
async def read_metrics(
    version: str,
    services: AppServices,
    model: Annotated[str | None, Query(description="The default model if absent.")] = None,
    window_s: Annotated[float, Query(gt=0, description="How far back, in seconds.")] = 300,
) -> Response:
    """Rate, latency percentiles, errors, predictions and resources of a version, over all of its workers."""
    known = services.catalog.model(model).version(version)
    limit_s = services.settings.outcomes.window_s
    if window_s > limit_s:
        raise InvalidParameterError(f"window_s is {window_s:g}; the windows hold {limit_s} s")
    time_s, now_s = services.settings.api.default_wait_s, services.clock.now_s()
    async with answer_within(time_s, store_is_late(time_s, done="ask again")):
        report = await services.windows.read(known.model, known.version, window_s=window_s, now_s=now_s)
        report = replace(report, feedback=await services.feedback_store.report(known.model, known.version))
    return Response(encode_json(report), media_type="application/json")


def live_checks(services: Services) -> Mapping[str, bool]:
    """Return each background task and whether it runs."""
    return {
        "backlog": services.admission.is_running,
        "delivered_results": services.delivered.is_running,
        "enqueuer": services.enqueuer.is_running,
        "splits": services.follower.is_running,
        "rollouts": services.rollout_follower.is_running,
        "catalog": services.catalog_follower.is_running,
        "store_capacity": services.store_capacity.is_running,
        "pending_requests": services.pending.is_running,
    }


def ready_checks(services: Services) -> Mapping[str, bool]:
    """Return the checks of `live_checks`, of broker and store, and of keys and certificate if there are some."""
    return {
        **live_checks(services),
        "broker": PULSE.answers,
        "store": services.pending.is_subscribed,
        "store_writes": services.store_probe.takes_writes,
        **services.edge_checks(),
    }


def edge_checks(
    keys: "KeyRing | None", certificates: "Mapping[str, RenewedCertificate[Any] | None]"
) -> Mapping[str, bool]:
    """Return whether keys can be read and each certificate, by its name, is valid; where there are some."""
    checks = {} if keys is None else {"api_keys": keys.is_readable}
    return checks | {name: each.is_valid() for name, each in certificates.items() if each is not None}


def _answer(checks: Mapping[str, bool]) -> Response:
    status, body = health_body(checks)
    return Response(body, status_code=status, media_type="application/json")
