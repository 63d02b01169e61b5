"""What is learnt of a version beside its answers: `POST /v1/feedback` and `GET /v1/shadows/{model}/{version}`.

Feedback says what became of predictions, by the outcome tokens that came with them; shadow copies, what another version
answers.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from inferlane.contracts.feedback import MAX_PIECES, Feedback
from inferlane.contracts.shadow import MANUAL_RUN
from inferlane.errors import UNDECODABLE, DecodeError, UnavailableError, clipped
from producer_api.http.error_responses import InvalidParameterError
from producer_api.http.schemas import FeedbackAccepted
from producer_api.predict.endpoint import encode_json
from producer_api.predict.pending import answer_within, store_is_late
from producer_api.routes.dependencies import AppServices, refuse_repeated

router = APIRouter(dependencies=[Depends(refuse_repeated)])

_decode_one = msgspec.json.Decoder(Feedback).decode
_decode_many = msgspec.json.Decoder(Annotated[list[Feedback], msgspec.Meta(min_length=1, max_length=MAX_PIECES)]).decode


@router.post("/v1/feedback", tags=["predictions"], response_model=FeedbackAccepted, status_code=202)
async def give_feedback(request: Request, services: AppServices) -> dict[str, Any]:
    """Say what became of one prediction, or of a list of up to 100: the right `label`, a `reward`, or both.

    Each is counted once, however often it is sent. `GET /v1/metrics/{version}` shows what they say.
    """
    given = _read(await request.body())
    time_s = services.settings.api.default_wait_s
    late = UnavailableError(
        f"the broker has not confirmed the feedback within {time_s:.1f} s; send it again, it is counted once"
    )
    async with answer_within(time_s, late):
        await services.feedback.send(given, now_s=services.clock.now_s())
    return {"accepted": len(given)}


def _read(body: bytes) -> list[Feedback]:
    """Parse the body: one piece of feedback, or a list.

    Raises:
        DecodeError: it is not JSON.
        InvalidParameterError: it holds no feedback.
    """
    try:
        return _decode_many(body) if body.lstrip().startswith(b"[") else [_decode_one(body)]
    except msgspec.ValidationError as error:
        raise InvalidParameterError(
            f'the body holds no feedback: {clipped(str(error))}; it looks like {{"token": "…", "reward": 1.0}}, or a '
            f"list of at most {MAX_PIECES} of them"
        ) from error
    except UNDECODABLE as error:
        raise DecodeError(f"the body is not valid JSON: {clipped(str(error))}") from error


@router.get("/v1/shadows/{model}/{version}", tags=["operations"])
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
    time_s = services.settings.api.default_wait_s
    async with answer_within(time_s, store_is_late(time_s, done="ask again")):
        report = await services.shadow_results.read(known.model, known.version, wanted, limit=limit)
    return Response(encode_json(report), media_type="application/json")
