"""`GET /v1/shadows/{model}/{version}`: what shadow copies said about a version, and the rows that disagree most."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from inferlane.contracts.shadow import MANUAL_RUN
from producer_api.predict.endpoint import encode_json
from producer_api.predict.pending import answer_within, store_is_late
from producer_api.routes.dependencies import AppServices, refuse_repeated

router = APIRouter(tags=["operations"], dependencies=[Depends(refuse_repeated)])


@router.get("/v1/shadows/{model}/{version}")
async def read_shadow(
    model: str,
    version: str,
    services: AppServices,
    run: Annotated[
        str | None,
        Query(max_length=512, description="A rollout's or a replay's id. Absent: of the split in force."),
    ] = None,
    limit: Annotated[int, Query(ge=0, le=100, description="Rows that disagree, the most distant first.")] = 20,
) -> Response:
    """Agreement with the answers that clients got, failures, times, and the rows that disagree most. Needs `admin`."""
    known = services.catalog.model(model).version(version)
    split = services.splits.get(known.model)
    wanted = run or (split.rollout if split is not None else "") or MANUAL_RUN
    time_s = services.settings.default_wait_s
    async with answer_within(time_s, store_is_late(time_s, done="ask again")):
        report = await services.shadow_results.read(known.model, known.version, wanted, limit=limit)
    return Response(encode_json(report), media_type="application/json")
