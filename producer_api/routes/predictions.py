"""`GET` and `DELETE /v1/predictions/{id}`: the state or the result, and taking a request back, from any replica."""

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query

from inferlane.errors import UnavailableError
from inferlane.quoting import quoted
from inferlane.record import RequestHeaders
from inferlane.results import CANCELLED, Accepted, Result, Status
from producer_api.problems import UnknownPredictionError
from producer_api.schemas import Prediction
from producer_api.services import Services, Wired

router = APIRouter(tags=["predictions"])


@router.get("/v1/predictions/{request_id}", response_model=Prediction, response_model_exclude_none=True)
async def read_prediction(
    request_id: str,
    services: Wired,
    wait_s: Annotated[float, Query(ge=0, le=60, description="Wait this long for a result that is not there yet.")] = 0,
) -> dict[str, Any]:
    """The result, or `QUEUED` while there is none. A result is kept for an hour by default."""
    known = await _known(services, request_id)
    if isinstance(known, Result):
        return services.answerer.body(known)
    accepted, result = known, None
    if wait_s > 0:
        result = await _wait(services, request_id, min(wait_s, services.settings.max_wait_s))
    if result is None and services.clock.now_s() > accepted.deadline_s:
        result = await _expire(services, request_id, accepted)
    if result is not None:
        return services.answerer.body(result)
    return {
        "request_id": request_id,
        "status": Status.QUEUED.value,
        "model": accepted.model,
        "version": accepted.version,
    }


@router.delete("/v1/predictions/{request_id}", response_model=Prediction, response_model_exclude_none=True)
async def cancel_prediction(request_id: str, services: Wired) -> dict[str, Any]:
    """Take a request back: it ends `FAILED` with the code `cancelled`, and is not computed if no worker has begun.

    A request that has ended already keeps its result, which is the answer. Calling it again changes nothing.
    """
    accepted = await _known(services, request_id)
    if isinstance(accepted, Result):
        return services.answerer.body(accepted)
    cancelled = Result.cancelled(_headers_of(request_id, accepted), now_s=services.clock.now_s())
    (held,) = await services.store.put([cancelled])
    if held.error_code == CANCELLED:
        # The result is what counts; a worker that does not hear of it computes in vain and changes nothing.
        with suppress(UnavailableError):
            await services.cancellations.add(request_id, until_s=accepted.deadline_s)
    return services.answerer.body(held)


async def _known(services: Services, request_id: str) -> Result | Accepted:
    known = await services.store.find(request_id)
    if known is None:
        raise UnknownPredictionError(
            f"no prediction {quoted(request_id)}: it was never accepted, or its result is older than "
            f"{services.settings.result_ttl_s:.0f} s and forgotten"
        )
    return known


async def _find(services: Services, request_id: str) -> Result | None:
    (result,) = await services.store.get([request_id])
    return result


async def _wait(services: Services, request_id: str, wait_s: float) -> Result | None:
    """Wait on the tick of the waiting room: the worker's wake-up went to the replica that took the request."""
    place = services.room.enter(request_id)
    try:
        return await services.room.wait(place, wait_s) or await _find(services, request_id)
    finally:
        services.room.leave(request_id, place)


async def _expire(services: Services, request_id: str, accepted: Accepted) -> Result:
    """End a request whose deadline has passed with no worker to say so, unless a result was written meanwhile."""
    headers = _headers_of(request_id, accepted)
    (held,) = await services.store.put([Result.expired(headers, now_s=services.clock.now_s())])
    return held


def _headers_of(request_id: str, accepted: Accepted) -> RequestHeaders:
    return RequestHeaders(
        request_id=request_id,
        model=accepted.model,
        version=accepted.version,
        accepted_s=accepted.accepted_s,
        deadline_s=accepted.deadline_s,
        reply_to=None,
        routing_key=None,
        attempt=1,
        batch_id=None,
        json_length=None,
    )
