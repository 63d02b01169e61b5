"""`GET /v1/models` and `/v1/traffic-split`: the models that are served, and the weights of their versions."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Depends, Query, Request
from msgspec.structs import replace

from inferlane.contracts.traffic_split import make_split, shares_of
from inferlane.contracts.wire.json_numbers import refuse_repeats
from inferlane.contracts.wire.tensors import TensorSpec
from inferlane.errors import UNDECODABLE, DecodeError, RolloutUnderWayError, UnavailableError, clipped, quoted
from inferlane.runtime.split_table import publish_split
from models.catalog import Fault, Model, ModelVersion
from producer_api.http.error_responses import InvalidParameterError
from producer_api.http.schemas import MAX_WEIGHT, MAX_WEIGHTS, ModelList, ModelWeights, SplitInfo, Weight, Weights
from producer_api.predict.pending import answer_within
from producer_api.routes.dependencies import AppServices, Services, catch_up, refuse_repeated
from producer_api.routes.rollout_conflicts import way_out

router = APIRouter(tags=["models"], dependencies=[Depends(refuse_repeated)])
log = structlog.get_logger(__name__)

# An early list without these reasons is worth more than a late one.
_FAULTS_WITHIN_S = 1.0

_decode_named = msgspec.json.Decoder(ModelWeights).decode
_decode_default = msgspec.json.Decoder(Weights).decode
_BESIDE_WEIGHTS = set(ModelWeights.__struct_fields__) - {"weights"}
_decode_weight = msgspec.json.Decoder(Weight).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@router.get("/v1/models", response_model=ModelList)
async def list_models(services: AppServices) -> dict[str, Any]:
    """Every model and version that is served, with signatures, sizes and weights."""
    return {
        # As OpenAI's clients list models.
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "inferlane"} for name in services.catalog.models
        ],
        "models": [_about_model(services, model) for model in services.catalog.models.values()],
        "unusable": [
            {"model": fault.model, "version": fault.version, "reason": fault.reason}
            for fault in (*services.catalog.faults, *await faults_of_workers(services))
        ],
    }


@router.get("/v1/traffic-split", response_model=SplitInfo, response_model_exclude_none=True)
async def read_split(
    services: AppServices, model: Annotated[str | None, Query(description="The default model if absent.")] = None
) -> dict[str, Any]:
    """The weights in force on this replica; before the first change, all traffic goes to the default version."""
    return _about_split(services, services.catalog.model(model))


@router.post("/v1/traffic-split", response_model=SplitInfo, response_model_exclude_none=True)
async def change_split(request: Request, services: AppServices) -> dict[str, Any]:
    """Set the weights of a model's versions; they are normalised. Responds once they are in force on this replica."""
    change = _change_of(await request.body())
    model, weights = services.catalog.model(_given(change.model)), change.weights
    unusable = {**model.faults}
    for fault in await faults_of_workers(services):
        if fault.model == model.name and fault.version is not None:
            unusable[fault.version] = fault.reason
    split = make_split(
        model.name,
        weights,
        known=model.versions,
        unusable=unusable,
        changed_s=services.clock.now_s(),
        fallback="" if isinstance(change.fallback, msgspec.UnsetType) else change.fallback,
        shadow=None if isinstance(change.shadow, msgspec.UnsetType) else change.shadow,
    )
    model.check_together(split)
    await catch_up(services, services.rollout_follower, services.follower)
    time_s = services.settings.api.default_wait_s
    started_s = services.clock.monotonic_s()
    await _wait_for_last_split(services, model.name, timeout_s=time_s)
    time_s -= services.clock.monotonic_s() - started_s
    split = replace(split, generation=_generation(services, model.name, is_forced=change.force is True))
    late = UnavailableError(
        f"the split was not in force here within the {time_s:.1f} s of this call; whether it is stored is not known. "
        "GET /v1/traffic-split says what is in force; setting the same weights again is harmless"
    )
    async with answer_within(time_s, late):
        before = services.splits.mark()
        offset = await publish_split(services.settings.kafka, services.settings.stack.names, split)
        await services.splits.wait_applied(offset, timeout_s=time_s, since=before)
    if services.splits.is_newest_passed_over(model.name):
        raise RolloutUnderWayError(f"a rollout of {model.name} set the split at the same moment; set yours again")
    return _about_split(services, model)


async def _wait_for_last_split(services: Services, model: str, *, timeout_s: float) -> None:
    """Return once a rollout that is over has set its last split, which would replace what is written before it.

    Raises:
        UnavailableError: no router has set it within `timeout_s`.
    """
    late = UnavailableError(
        f"the last rollout of {model} is over, and no router has set its last split within {timeout_s:.1f} s; the "
        "split of this call was not stored: send it again once a router is ready"
    )
    async with answer_within(timeout_s, late):
        while (held := services.splits.get(model)) is not None and held.rollout:
            state = services.rollouts.find(held.rollout)
            if state is None or not state.phase.is_final:
                return
            await services.splits.changed(timeout_s=timeout_s)


def _generation(services: Services, model: str, *, is_forced: bool) -> int:
    """The generation of a split that a person sets: over that of a rollout, which pauses it.

    Raises:
        RolloutUnderWayError: a rollout of the model is not over, and the change is not forced.
    """
    held, under_way = services.splits.get(model), services.rollouts.under_way(model)
    if under_way is not None and not is_forced:
        raise RolloutUnderWayError(
            f"the rollout {under_way.id} of {model} is {under_way.phase} and sets the split; "
            f'{way_out(under_way.phase)}, or send "force": true, which pauses it'
        )
    generation = 0 if held is None else held.generation
    return generation + 1 if under_way is not None else generation


async def faults_of_workers(services: Services) -> list[Fault]:
    """Return the versions that workers could not load; none if the store is unavailable."""
    versions = [(version.model, version.version) for version in services.catalog.all_versions()]
    try:
        async with asyncio.timeout(_FAULTS_WITHIN_S):
            found = await services.faults.read(versions)
    except (UnavailableError, TimeoutError) as error:
        log.warning("version_faults_not_read", error=repr(error))
        return []
    return [Fault(model=model, version=version, reason=reason) for (model, version), reason in found.items()]


def _change_of(body: bytes) -> ModelWeights:
    """Parse the body of a change.

    Raises:
        DecodeError: the body is not JSON, or has a field twice.
        InvalidParameterError: the body contains no valid weights.
    """
    try:
        is_named = bytes(_decode_fields(body).get("weights", b"")).lstrip().startswith(b"{")
        change = _decode_named(body) if is_named else ModelWeights(weights=_decode_default(body))
    except msgspec.ValidationError as error:
        raise InvalidParameterError(
            f"the body holds no weights: {_fault_in(body) or clipped(str(error))}; it looks like "
            '{"v1": 90, "v2": 10} or {"model": "digits", "weights": {"v1": 1, "v2": 1}}, with at most '
            f"{MAX_WEIGHTS} weights from 0 to {MAX_WEIGHT:g}"
        ) from error
    except UNDECODABLE as error:
        raise DecodeError(f"the body is not valid JSON: {clipped(str(error))}") from error
    refuse_repeats(body, change if is_named else change.weights)
    return change


def _fault_in(body: bytes) -> str:
    """Return which weight of a refused body is none, with its value; empty if the fault is elsewhere."""
    try:
        weights = _decode_fields(body)
        others = sorted(weights.keys() & _BESIDE_WEIGHTS)
        named = weights.get("weights")
        if named is not None and bytes(named).lstrip().startswith(b"{"):
            weights = _decode_fields(named)
        elif named is not None and others:
            return f'"weights" is {_shown(named)}, and must be an object'
        elif others:
            return f'it has "{others[0]}" and no "weights"'
    except UNDECODABLE:
        return ""
    for version, raw in weights.items():
        try:
            _decode_weight(raw)
        except UNDECODABLE:
            return f"the weight of {quoted(version)} is {_shown(raw)}"
    return ""


def _shown(raw: msgspec.Raw) -> str:
    return clipped(bytes(raw).decode(errors="backslashreplace"), limit_chars=80)


def _given(model: str | msgspec.UnsetType | None) -> str | None:
    return None if isinstance(model, msgspec.UnsetType) else model


def _weights(services: Services, model: Model) -> dict[str, float]:
    shares = shares_of(model.weights(services.splits.get(model.name)))
    return {version: shares.get(version, 0.0) for version in model.versions}


def _about_split(services: Services, model: Model) -> dict[str, Any]:
    split = services.splits.get(model.name)
    return {
        "model": model.name,
        "weights": _weights(services, model),
        "changed_s": None if split is None else split.changed_s,
        "fallback": None if split is None else split.fallback or None,
        "shadow": None if split is None or split.shadow is None else msgspec.to_builtins(split.shadow),
    }


def _about_model(services: Services, model: Model) -> dict[str, Any]:
    weights = _weights(services, model)
    return {
        "name": model.name,
        "description": model.description,
        "default": model.name == services.catalog.default_model,
        "default_version": model.default_version,
        "classes": next(iter(model.versions.values())).classes,
        "versions": [_about_version(version, weights[version.version]) for version in model.versions.values()],
    }


def _about_version(version: ModelVersion, weight: float) -> dict[str, Any]:
    return {
        "version": version.version,
        "weight": weight,
        "quantization": version.quantization,
        "runtime": {"providers": version.execution.providers, "threads": version.execution.threads},
        "size_bytes": version.size_bytes,
        "digest": version.digest,
        "inputs": about_tensors(version.signature.inputs),
        "outputs": about_tensors(version.signature.outputs),
        "metrics": version.metrics,
        "quantized": version.quantized,
    }


def about_tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Return name, datatype and shape of each input or output, which both protocols describe alike."""
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]
