"""`GET` and `DELETE /v1/predictions/{id}`: read the state or result of a request, or cancel it, on any replica."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from inferlane.contracts.identity import foreign_name, is_own_id
from inferlane.contracts.results import Accepted, Result
from inferlane.errors import UnavailableError, quoted
from producer_api.http.asgi import CALLER, SEES_ALL
from producer_api.http.error_responses import UnknownPredictionError
from producer_api.http.event_stream import MEDIA_TYPE
from producer_api.http.schemas import Prediction
from producer_api.predict.call_options import seconds_within
from producer_api.predict.cancellation import ClientDisconnect, accepted_headers, cancel_request
from producer_api.predict.event_streams import empty_stream, queued_body
from producer_api.predict.pending import answer_within, store_is_late
from producer_api.routes.dependencies import AppServices, Services, refuse_repeated

router = APIRouter(tags=["predictions"], dependencies=[Depends(refuse_repeated)])

_MAX_SOURCE_CHARS = 2_048
Source = Annotated[
    str,
    Query(
        max_length=_MAX_SOURCE_CHARS,
        description="The `ce_source` of a request that was produced to Kafka, if it had one. Needs the scope "
        "`all-requests` where the API has keys.",
    ),
]


_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["queued", "result"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Prediction"},
        },
        "id": {"type": "string", "description": "Only of `result`; give it back in `Last-Event-ID`."},
    },
}


@dataclass(frozen=True, slots=True)
class _VisibleRequest:
    """A request that the caller may see: its key in the store, and its result or acceptance mark."""

    key: str
    known: Result | Accepted


@router.get("/v1/predictions/{request_id}", response_model=Prediction, response_model_exclude_none=True)
async def read_prediction(
    request_id: str,
    request: Request,
    services: AppServices,
    wait_s: Annotated[float, Query(ge=0, description="Wait this long for a result that is not there yet.")] = 0,
    source: Source = "",
) -> dict[str, Any]:
    """The result, or `QUEUED` while there is none.

    A result is kept for an hour by default; five minutes once a predict call that waited has handed it over.
    """
    settings, clock = services.settings, services.clock
    asked_s = seconds_within("wait_s", wait_s, 0.0, settings.api.longest_read_wait_s)
    allowed_s = min(asked_s, settings.api.max_wait_s)
    until_s = clock.monotonic_s() + allowed_s
    time_s = allowed_s + settings.api.answer_grace_s
    async with answer_within(time_s, store_is_late(time_s, done="ask again")):
        asked = await _find(services, request, request_id, source)
        if isinstance(asked.known, Result):
            return services.responses.body(asked.known)
        accepted, waits = asked.known, services.submitter.waits
        known: Result | Accepted | None = accepted
        if wait_s > 0:
            disconnect = ClientDisconnect()
            with disconnect.watching(request.receive):
                known = await waits.wait(
                    request_id, key=asked.key, model=accepted.model, until_s=until_s, disconnect=disconnect
                )
        known = await waits.expire(request_id, known, key=asked.key)
    return services.responses.body(known) if isinstance(known, Result) else queued_body(request_id, accepted)


@router.get(
    "/v1/predictions/{request_id}/events",
    response_class=Response,
    responses={
        200: {"description": "The events, each as this schema says.", "content": {MEDIA_TYPE: {"schema": _EVENT}}},
        204: {"description": "`Last-Event-ID` names the terminal event: there is nothing more to come."},
    },
)
async def stream_prediction(
    request_id: str,
    request: Request,
    services: AppServices,
    last_event_id: Annotated[str, Header(description="The `id` of the last event that the client has.")] = "",
    source: Source = "",
) -> Response:
    """Server-sent events: `queued` while there is no result, then `result`, which ends the stream.

    The data of each is the body of `GET /v1/predictions/{request_id}`. Any replica serves it. If a stream ends without
    `result`, open it again, as EventSource does by itself. While the store does not answer, the stream has no events,
    and a `retry` field says when to open it again.
    """
    time_s = services.settings.api.default_wait_s
    try:
        async with answer_within(time_s, store_is_late(time_s, done="open the stream again")):
            asked = await _find(services, request, request_id, source)
    except UnavailableError as error:
        if not error.retryable:
            raise
        return empty_stream(request_id, error)
    return services.streams.response(request_id, asked.known, key=asked.key, last_event_id=last_event_id)


@router.delete("/v1/predictions/{request_id}", response_model=Prediction, response_model_exclude_none=True)
async def cancel_prediction(
    request_id: str, request: Request, services: AppServices, source: Source = ""
) -> dict[str, Any]:
    """Cancel a request: it ends `FAILED` with the code `cancelled`, and is not computed if no worker has begun.

    A request that has ended keeps its result, which is the response. Repeating the call changes nothing.
    """
    time_s = services.settings.api.default_wait_s
    late = store_is_late(time_s, done="whether the request is cancelled is not known, so call again")
    async with answer_within(time_s, late):
        asked = await _find(services, request, request_id, source)
        if isinstance(asked.known, Result):
            return services.responses.body(asked.known)
        headers = accepted_headers(request_id, asked.key, asked.known)
        held = await cancel_request(services.store, services.cancellations, headers, now_s=services.clock.now_s())
    return services.responses.body(held)


async def _find(services: Services, request: Request, request_id: str, source: str) -> _VisibleRequest:
    """Find the request, if the caller may see it; the request of another caller is reported like an unknown one."""
    sees_all = request.scope.get(SEES_ALL, True)
    key: str | None = request_id
    if source or not is_own_id(request_id):
        # A request that was produced to Kafka: no key of the API asked for it.
        key = await services.store.foreign_key(foreign_name(source.encode(), request_id)) if sees_all else None
    known = None if key is None else await services.store.find(key)
    if key is None or known is None or not (sees_all or known.caller == request.scope.get(CALLER)):
        raise UnknownPredictionError(
            f"no prediction {quoted(request_id)}: it was never accepted, its result is older than "
            f"{services.settings.store.result_ttl_s:.0f} s and forgotten, or it is another key's"
        )
    return _VisibleRequest(key, known)
