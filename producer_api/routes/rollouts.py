"""`/v1/rollouts`: start a rollout, look at it, and tell it what to do. The router that reads the outcomes decides."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from msgspec.structs import replace

from inferlane.contracts.rollout import MAX_TEXT, Action, Check, Command, Evidence, Phase, RolloutSpec, RolloutState
from inferlane.contracts.rollout_actions import is_overtaken, refusal_of
from inferlane.contracts.rollout_request import read_request, request_schema, spec_of
from inferlane.contracts.traffic_split import Split, shares_of
from inferlane.errors import (
    UNDECODABLE,
    DecodeError,
    InvalidRolloutError,
    RolloutStateError,
    RolloutUnderWayError,
    UnavailableError,
    clipped,
)
from inferlane.runtime.rollout_table import publish_rollout
from producer_api.http.asgi import CALLER
from producer_api.http.event_stream import (
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    MEDIA_TYPE,
    EventStreamResponse,
    EventWriter,
    encode_event,
)
from producer_api.predict.call_options import check_callback_url
from producer_api.predict.cancellation import ClientDisconnect
from producer_api.predict.endpoint import encode_json
from producer_api.predict.pending import answer_within
from producer_api.routes.dependencies import AppServices, Services, catch_up, refuse_repeated
from producer_api.routes.rollout_conflicts import way_out

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import FeedbackSettings, RolloutSettings

router = APIRouter(tags=["rollouts"], dependencies=[Depends(refuse_repeated)])

_LOOK_S = 1.0
_REMARK: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"reason": {"type": "string"}}}},
        }
    }
}


class Remark(msgspec.Struct, frozen=True):
    """The body of a command; it may be empty."""

    reason: str = ""


@router.get("/v1/rollouts")
async def list_rollouts(services: AppServices) -> Response:
    """Every rollout, the newest first, without its history."""
    states = [replace(state, events=state.events[-1:]) for state in services.rollouts.states]
    return _json({"rollouts": [_about(state) for state in states]})


@router.get("/v1/rollouts/schema")
async def read_schema() -> Response:
    """The JSON Schema of the body of `POST /v1/rollouts`, which is that of `rollout.yaml`."""
    return _json(request_schema())


@router.post(
    "/v1/rollouts",
    status_code=201,
    responses={
        201: {
            "description": "Started; `Location` is where it is read.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        }
    },
)
async def start_rollout(request: Request, services: AppServices) -> Response:
    """Start a rollout; `GET /v1/rollouts/schema` has the body. Responds once a router has it."""
    asked = read_request(_decoded(await request.body()))
    model = services.catalog.model(asked.model or None)
    candidate = model.version(asked.candidate)
    await catch_up(services, services.rollout_follower, services.follower)
    shares = shares_of(model.weights(services.splits.get(model.name)))
    stable = model.version(asked.stable or max(shares, key=lambda version: shares[version]))
    spec = spec_of(asked, model=model.name, stable=stable.version)
    if under_way := services.rollouts.under_way(model.name):
        raise RolloutUnderWayError(
            f"the rollout {under_way.id} of {model.name} is {under_way.phase}; {way_out(under_way.phase)} first"
        )
    others = sorted(version for version in shares if shares[version] and version not in {spec.stable, spec.candidate})
    if others:
        raise InvalidRolloutError(
            f"{', '.join(others)} of {model.name} has traffic too, and a rollout is between two versions; set the "
            f"split to {spec.stable} alone first"
        )
    _refuse_unreadable_checks(spec, services.settings.feedback, services.settings.rollouts)
    for url in spec.notify:
        check_callback_url(url, services.settings.webhooks)
    model.check_together(Split(model=model.name, weights={spec.stable: 0.5, candidate.version: 0.5}))
    command = Command(
        id=uuid.uuid4().hex,
        rollout=f"{model.name}-{spec.candidate}-{uuid.uuid4().hex[:8]}",
        action=Action.START,
        by=_caller(request),
        reason=asked.reason,
        at_s=services.clock.now_s(),
        spec=spec,
    )
    state = await _decided(services, command)
    if state.events[0].phase is Phase.FAILED:
        # Of two that were started at once, the later one.
        raise RolloutUnderWayError(f"{state.events[0].reason}; promote or abort it first")
    return _json(_about(state), status=201, headers={"location": f"/v1/rollouts/{state.id}"})


def _refuse_unreadable_checks(spec: RolloutSpec, feedback: "FeedbackSettings", rollouts: "RolloutSettings") -> None:
    if Check.PROMETHEUS in spec.checks and not rollouts.prometheus_url:
        raise InvalidRolloutError(
            "the check `prometheus` needs a Prometheus to ask; set INFERLANE_PROMETHEUS_URL for API and router"
        )
    if {Check.QUALITY, Check.REWARD} & spec.checks.keys() and feedback.secret is None:
        raise InvalidRolloutError(
            "`quality` and `reward` need feedback, for which results have outcome tokens; set INFERLANE_FEEDBACK_SECRET"
        )


@router.get("/v1/rollouts/{rollout}")
async def read_rollout(rollout: str, services: AppServices) -> Response:
    """Where a rollout stands, what each check says, and its history."""
    return _json(_about(await _known(services, rollout)))


@router.get(
    "/v1/rollouts/{rollout}/events",
    response_class=Response,
    responses={
        200: {"description": "`rollout` events, each with the rollout as its data.", "content": {MEDIA_TYPE: {}}}
    },
)
async def stream_rollout(rollout: str, services: AppServices) -> Response:
    """Server-sent events: `rollout` now and with every change, until it is over."""
    await _known(services, rollout)
    return EventStreamResponse(partial(_write_events, services, rollout))


async def _known(services: Services, rollout: str) -> RolloutState:
    """The state of a rollout, also of one whose start another API process has just answered."""
    if services.rollouts.find(rollout) is None:
        await catch_up(services, services.rollout_follower)
    return services.rollouts.get(rollout)


async def _command(services: Services, request: Request, rollout: str, action: Action) -> Response:
    await catch_up(services, services.rollout_follower)
    state = services.rollouts.get(rollout)
    if refusal := refusal_of(state, action):
        raise RolloutStateError(refusal)
    body = await request.body()
    try:
        remark = msgspec.convert(_decoded(body) if body.strip() else {}, Remark)
    except msgspec.ValidationError as error:
        raise InvalidRolloutError(f'the body holds no reason: {clipped(str(error))}; send {{"reason": "…"}}') from error
    command = Command(
        id=uuid.uuid4().hex,
        rollout=rollout,
        action=action,
        by=_caller(request),
        reason=remark.reason[:MAX_TEXT],
        at_s=services.clock.now_s(),
    )
    decided = await _decided(services, command)
    if is_overtaken(decided, action):
        raise RolloutStateError(refusal_of(decided, action))
    return _json(_about(decided))


@router.post("/v1/rollouts/{rollout}/pause", openapi_extra=_REMARK)
async def pause_rollout(rollout: str, request: Request, services: AppServices) -> Response:
    """Hold a rollout where it is. Responds once it is decided on."""
    return await _command(services, request, rollout, Action.PAUSE)


@router.post("/v1/rollouts/{rollout}/resume", openapi_extra=_REMARK)
async def resume_rollout(rollout: str, request: Request, services: AppServices) -> Response:
    """Let a paused rollout go on. Responds once it is decided on."""
    return await _command(services, request, rollout, Action.RESUME)


@router.post("/v1/rollouts/{rollout}/promote", openapi_extra=_REMARK)
async def promote_rollout(rollout: str, request: Request, services: AppServices) -> Response:
    """Give the candidate all traffic, whatever the checks say. Responds once it is decided on."""
    return await _command(services, request, rollout, Action.PROMOTE)


@router.post("/v1/rollouts/{rollout}/abort", openapi_extra=_REMARK)
async def abort_rollout(rollout: str, request: Request, services: AppServices) -> Response:
    """Roll back to the stable version. Responds once it is decided on."""
    return await _command(services, request, rollout, Action.ABORT)


async def _decided(services: Services, command: Command) -> RolloutState:
    """Write a command and return the state that was decided on it."""
    time_s = services.settings.api.default_wait_s
    late = UnavailableError(
        f"no router has decided on {command.action} of {command.rollout} within {time_s:.0f} s; it is decided on once "
        "one reads the outcomes: GET /v1/rollouts says so"
    )
    async with answer_within(time_s, late):
        table, before = services.rollouts, services.rollouts.mark()
        offset = await publish_rollout(services.settings.kafka, services.settings.stack.names, command)
        await table.wait_applied(offset, timeout_s=time_s, since=before)

        def is_decided(state: RolloutState | None) -> bool:
            return state is not None and table.on_this_topic(state).commands_through >= offset

        return await _wait_for(services, command.rollout, is_decided)


async def _wait_for(services: Services, rollout: str, is_there: Callable[[RolloutState | None], bool]) -> RolloutState:
    while not is_there(services.rollouts.find(rollout)):
        await services.rollouts.changed(timeout_s=_LOOK_S)
    return services.rollouts.get(rollout)


async def _write_events(services: Services, rollout: str, receive: Any, out: EventWriter) -> None:
    client = ClientDisconnect()
    with services.streams.follower(), client.watching(receive):
        async for event in _events(services, rollout, client):
            await out.write(event)


async def _events(services: Services, rollout: str, client: ClientDisconnect) -> AsyncIterator[bytes]:
    shown = (-1, -1)
    silent_s = 0.0
    while not (services.streams.is_draining or client.has_happened):
        state = services.rollouts.find(rollout)
        if state is None:
            return
        if (state.generation, state.revision) != shown:
            shown, silent_s = (state.generation, state.revision), 0.0
            yield encode_event("rollout", encode_json(_about(state)), event_id=str(state.revision))
            if state.phase.is_final:
                return
        elif silent_s >= KEEP_ALIVE_S:
            silent_s = 0.0
            yield KEEP_ALIVE
        before_s = asyncio.get_running_loop().time()
        await services.rollouts.changed(timeout_s=_LOOK_S)
        silent_s += asyncio.get_running_loop().time() - before_s


def _about(state: RolloutState) -> dict[str, Any]:
    about: dict[str, Any] = msgspec.to_builtins(replace(state, evidence=Evidence()))
    about["phase"], about["step"] = state.phase, state.step
    about["weight"] = state.events[-1].weight if state.events else 0.0
    return about


def _caller(request: Request) -> str:
    return str(request.scope.get(CALLER) or "")


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except UNDECODABLE as error:
        raise DecodeError(f"the body is not valid JSON: {clipped(str(error))}") from error


def _json(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_json(body), status_code=status, headers=headers, media_type="application/json")
