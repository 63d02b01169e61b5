"""`GET /v1/metrics/{version}`: what a version did lately, from the outcome windows."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from producer_api.openapi import refuse_repeated
from producer_api.predict_endpoint import encode_json
from producer_api.problems import InvalidParameterError
from producer_api.services import Wired
from producer_api.waiting import answer_within, store_is_late

router = APIRouter(tags=["operations"], dependencies=[Depends(refuse_repeated)])


@router.get("/v1/metrics/{version}")
async def read_metrics(
    version: str,
    services: Wired,
    model: Annotated[str | None, Query(description="The default model if absent.")] = None,
    window_s: Annotated[float, Query(gt=0, description="How far back, in seconds.")] = 300,
) -> Response:
    """Rate, latency percentiles, errors, predictions and resources of a version, over all of its workers."""
    known = services.catalog.model(model).version(version)
    limit_s = services.settings.outcome_window_s
    if window_s > limit_s:
        raise InvalidParameterError(f"window_s is {window_s:g}; the windows hold {limit_s} s")
    time_s, now_s = services.settings.default_wait_s, services.clock.now_s()
    async with answer_within(time_s, store_is_late(time_s, done="ask again")):
        report = await services.windows.read(known.model, known.version, window_s=window_s, now_s=now_s)
    return Response(encode_json(report), media_type="application/json")
