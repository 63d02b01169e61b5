"""A rollout as a person asks for it: the body of `POST /v1/rollouts`, and `rollout.yaml`. Pure."""

import re
from typing import Annotated, Any, Literal

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import (
    MAX_NOTIFIED,
    Check,
    CheckOptions,
    Exposure,
    OnFailure,
    Pace,
    RolloutSpec,
    Step,
    default_checks,
)
from inferlane.errors import DecodeError, InvalidRolloutError, clipped, quoted

_Duration = Annotated[
    str | float, msgspec.Meta(description="Seconds, or a number with its unit: 30s, 2m, 6h, 1d.", examples=["2m"])
]
_StepText = Annotated[
    str | float,
    msgspec.Meta(
        description="A weight in percent, or `shadow` and a share in percent; then `for`, and requests or a time.",
        examples=["shadow 10% for 2000 requests", "5% for 10m", "25%", 50],
    ),
]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_UNITS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_STEP = re.compile(
    r"(?P<shadow>shadow\s+)?(?P<percent>\d+(?:\.\d+)?)\s*%?"
    r"(?:\s+for\s+(?:(?P<requests>[\d_,]+)\s+requests|(?P<time>\d+(?:\.\d+)?\s*[smhd])))?"
)
DEFAULT_STEPS = ("1%", "5%", "25%", "50%", "100%")


class PaceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How long each step lasts at least, and how long it may wait."""

    min_requests: Annotated[int, msgspec.Meta(ge=0)] = 500
    min_time: _Duration = "2m"
    max_wait: _Duration = "6h"
    promote_after: Annotated[int, msgspec.Meta(ge=0)] = 0


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rollout. The default `model` is the default model, the default `stable` the version with the largest weight."""

    candidate: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    model: Annotated[str, msgspec.Meta(max_length=200)] = ""
    stable: Annotated[str, msgspec.Meta(max_length=200)] = ""
    lanes: tuple[Lane, ...] = (Lane.REQUESTS, Lane.BULK)
    steps: Annotated[tuple[_StepText, ...], msgspec.Meta(min_length=1, max_length=100)] = DEFAULT_STEPS
    each: PaceRequest = PaceRequest()
    bake: _Duration = "10m"
    prepare: _Duration = "5m"
    checks: Annotated[
        dict[Check, CheckOptions], msgspec.Meta(extra_json_schema={"propertyNames": {"enum": sorted(Check)}})
    ] = msgspec.field(default_factory=default_checks)
    exposure: Exposure = Exposure()
    fallback: Literal["stable", "none"] = "stable"
    on_failure: OnFailure = OnFailure()
    notify: Annotated[
        tuple[Annotated[str, msgspec.Meta(description="A URL that every event is sent to, signed.")], ...],
        msgspec.Meta(max_length=MAX_NOTIFIED),
    ] = ()
    reason: Annotated[str, msgspec.Meta(max_length=2_000)] = ""


def request_schema() -> dict[str, Any]:
    """Return the JSON Schema of `rollout.yaml`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(RolloutRequest)}


def request_components(ref_template: str) -> dict[str, Any]:
    """Return the schemas that make up a request, by name; `ref_template` has `{name}` where one refers to another."""
    _, components = msgspec.json.schema_components([RolloutRequest], ref_template=ref_template)
    return components


def read_request(given: Any) -> RolloutRequest:
    """Read a request from parsed JSON or YAML.

    Raises:
        InvalidRolloutError: a field is missing, unknown or not of its kind.
    """
    try:
        return msgspec.convert(_with_whole_numbers(given), RolloutRequest)
    except msgspec.ValidationError as error:
        raise InvalidRolloutError(f"the rollout is not as its schema says: {clipped(str(error))}") from error


def _with_whole_numbers(given: Any) -> Any:
    """Return the value with 3 for 3.0: to JSON Schema both are the integer 3."""
    if isinstance(given, dict):
        return {name: _with_whole_numbers(value) for name, value in given.items()}
    if isinstance(given, list):
        return [_with_whole_numbers(value) for value in given]
    return int(given) if isinstance(given, float) and given.is_integer() else given


def spec_of(request: RolloutRequest, *, model: str, stable: str) -> RolloutSpec:
    """Return the rollout that a request asks for.

    Raises:
        InvalidRolloutError: a step or a time cannot be read, weights do not rise, or a check is unknown.
    """
    steps = tuple(read_step(step) for step in request.steps)
    weights = [step.weight for step in steps if step.weight]
    if weights != sorted(set(weights)):
        shown = ", ".join(f"{100 * weight:g}%" for weight in weights)
        raise InvalidRolloutError(f"the weights of the steps are {shown}; each must be larger than the one before")
    if request.candidate == stable:
        raise InvalidRolloutError(f"{quoted(stable)} is the candidate and the stable version; name another one")
    _refuse_vain_checks(request.checks)
    each = request.each
    try:
        return RolloutSpec(
            model=model,
            candidate=request.candidate,
            stable=stable,
            steps=steps,
            lanes=tuple(dict.fromkeys(request.lanes)) or (Lane.REQUESTS, Lane.BULK),
            each=Pace(
                min_requests=each.min_requests,
                min_time_s=seconds_of(each.min_time),
                max_wait_s=seconds_of(each.max_wait),
                promote_after=each.promote_after,
            ),
            bake_s=seconds_of(request.bake),
            prepare_s=seconds_of(request.prepare),
            checks=request.checks,
            exposure=request.exposure,
            fallback=request.fallback,
            on_failure=request.on_failure,
            notify=tuple(dict.fromkeys(request.notify)),
        )
    except DecodeError as error:
        raise InvalidRolloutError(str(error)) from error


def _refuse_vain_checks(checks: dict[Check, CheckOptions]) -> None:
    metric = checks.get(Check.PROMETHEUS)
    if metric is not None and not metric.query.strip():
        raise InvalidRolloutError("the check `prometheus` has no query; name one, and `max` or `min`")
    if metric is not None and metric.min is None and metric.max is None:
        raise InvalidRolloutError(
            "the check `prometheus` has no bound; name `max` or `min`, for a query without a bound never fails"
        )
    for check, options in checks.items():
        if check is not Check.REWARD and options.margin >= 1:
            raise InvalidRolloutError(
                f"the margin of `{check}` is {options.margin:g}; it is a share, below 1: write 0.01 for one point"
            )


def read_step(given: str | float) -> Step:
    """Read a step such as `shadow 10% for 2000 requests`, `5% for 10m`, `25%` or 50.

    Raises:
        InvalidRolloutError: it has another form.
    """
    found = _STEP.fullmatch(str(given).strip().lower())
    share = float(found["percent"]) / 100 if found is not None else 0.0
    if found is None or not 0 < share <= 1:
        raise InvalidRolloutError(
            f"the step {quoted(str(given))} is not one; write 5%, `5% for 10m` or `shadow 10% for 2000 requests`, "
            "with over 0 to 100 percent"
        )
    requests = int(re.sub("[_,]", "", found["requests"])) if found["requests"] else None
    time_s = seconds_of(found["time"]) if found["time"] else None
    is_shadow = found["shadow"] is not None
    return Step(
        weight=0.0 if is_shadow else share,
        shadow=share if is_shadow else 0.0,
        min_requests=requests,
        min_time_s=time_s,
    )


def seconds_of(given: str | float) -> float:
    """Read a duration: seconds, or a number with its unit.

    Raises:
        InvalidRolloutError: it is not a duration, or is over a year.
    """
    found = _DURATION.fullmatch(str(given).strip().lower())
    seconds = -1.0 if found is None else float(found[1]) * _UNITS[found[2]]
    if not 0 <= seconds <= 366 * 86_400:
        raise InvalidRolloutError(f"{quoted(str(given))} is no time; write 30s, 2m, 6h or 1d, at most a year")
    return seconds


def words_of(step: Step) -> str:
    """Return a step as a person writes it."""
    words = f"shadow {100 * step.shadow:g}%" if step.shadow else f"{100 * step.weight:g}%"
    if step.min_requests is not None:
        words += f" for {step.min_requests} requests"
    elif step.min_time_s is not None:
        words += f" for {step.min_time_s:g}s"
    return words
