"""A rollout as a person asks for it: the body of `POST /v1/rollouts`, and `rollout.yaml`. Pure."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import (
    MAX_COUNT,
    MAX_NOTIFIED,
    MAX_STEPS,
    MAX_TEXT,
    Check,
    CheckOptions,
    Count,
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
    r"(?:\s+for\s+(?:(?P<requests>\d[\d_,]*)\s+requests|(?P<time>\d+(?:\.\d+)?\s*[smhd])))?"
)
DEFAULT_STEPS = ("1%", "5%", "25%", "50%", "100%")
# More values, or values deeper inside others, than any rollout has. YAML's aliases write a billion of them in a line.
_MAX_VALUES = 10_000
_MAX_DEPTH = 10
# More digits than the largest count has: a number of millions of digits takes seconds to read.
_COUNT_DIGITS = 40
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_PART = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class PaceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How long each step lasts at least, and how long it may wait."""

    min_requests: Count = 500
    min_time: _Duration = "2m"
    max_wait: _Duration = "6h"
    promote_after: Count = 0


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rollout. The default `model` is the default model, the default `stable` the version with the largest weight."""

    candidate: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    model: Annotated[str, msgspec.Meta(max_length=200)] = ""
    stable: Annotated[str, msgspec.Meta(max_length=200)] = ""
    lanes: tuple[Lane, ...] = (Lane.REQUESTS, Lane.BULK)
    steps: Annotated[tuple[_StepText, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)] = DEFAULT_STEPS
    each: PaceRequest = PaceRequest()
    bake: _Duration = "10m"
    prepare: _Duration = "5m"
    checks: Annotated[
        dict[Check, CheckOptions],
        msgspec.Meta(min_length=1, extra_json_schema={"propertyNames": {"enum": sorted(Check)}}),
    ] = msgspec.field(default_factory=default_checks)
    exposure: Exposure = Exposure()
    fallback: Literal["stable", "none"] = "stable"
    on_failure: OnFailure = OnFailure()
    notify: Annotated[
        tuple[Annotated[str, msgspec.Meta(description="A URL that every event is sent to, signed.")], ...],
        msgspec.Meta(max_length=MAX_NOTIFIED),
    ] = ()
    reason: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] = ""


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
    plain = _plain(given, where="the rollout", left=[_MAX_VALUES])
    try:
        return msgspec.convert(plain, RolloutRequest)
    except msgspec.ValidationError as error:
        says = clipped(_with_value(str(error), plain))
        if says.endswith("in `$.checks`"):
            says += f"; there are: {', '.join(sorted(Check))}"
        raise InvalidRolloutError(f"the rollout is not as its schema says: {says}") from error


def _plain(given: Any, *, where: str, left: list[int], depth: int = 0) -> Any:
    """Return the value with 3 for 3.0 (to JSON Schema both are the integer 3). `left` is how many more may come."""
    left[0] -= 1
    if left[0] < 0 or depth > _MAX_DEPTH:
        raise InvalidRolloutError(
            f"the rollout has over {_MAX_VALUES:,} values, or some in over {_MAX_DEPTH} others; the schema needs fewer"
        )
    if isinstance(given, dict):
        names = {name: f"{where}: {name}" if depth == 0 else f"{where}.{name}" for name in given}
        return {name: _plain(value, where=names[name], left=left, depth=depth + 1) for name, value in given.items()}
    if isinstance(given, list):
        return [_plain(value, where=f"{where}[{at}]", left=left, depth=depth + 1) for at, value in enumerate(given)]
    if isinstance(given, float) and not math.isfinite(given):
        raise InvalidRolloutError(f"{where} is {given}; write a finite number")
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _with_value(says: str, given: Any) -> str:
    """Return what the decoder says with the place in words and the value there, in place of a path with `...`."""
    found = _PLACE.search(says)
    if found is None:
        return says
    names, value = [], given
    for name in _names(found["path"]):
        try:
            key = _refused_check(value) if name == "..." else int(name) if isinstance(value, list) else name
            value = value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            return says
        names.append(str(key))
    return f"{says[: found.start()]} for `{'.'.join(names)}`, which is {quoted(value)}"


def _names(path: str) -> Iterator[str]:
    return (name or index for name, index in _PART.findall(path))


def _refused_check(checks: dict[str, Any]) -> str:
    """Return the name of the first check that cannot be read: the decoder does not say which it is."""
    for name, options in checks.items():
        try:
            msgspec.convert({name: options}, dict[Check, CheckOptions])
        except msgspec.ValidationError:
            return name
    raise KeyError


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
    _refuse_vain_checks(request.checks, steps)
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


def _refuse_vain_checks(checks: dict[Check, CheckOptions], steps: tuple[Step, ...]) -> None:
    if Check.AGREEMENT in checks and not any(step.shadow for step in steps):
        raise InvalidRolloutError(
            "the check `agreement` compares shadow copies, and no step makes any; begin the steps with `shadow 10%`, "
            "or leave the check out"
        )
    metric = checks.get(Check.PROMETHEUS)
    if metric is not None and not metric.query.strip():
        raise InvalidRolloutError("the check `prometheus` has no query; name one, and `max` or `min`")
    if metric is not None and metric.min is None and metric.max is None:
        raise InvalidRolloutError(
            "the check `prometheus` has no bound; name `max` or `min`, for a query without a bound never fails"
        )
    if metric is not None and metric.min is not None and metric.max is not None and metric.min > metric.max:
        raise InvalidRolloutError(
            f"the check `prometheus` wants at least {metric.min:g} and at most {metric.max:g}, which no value is"
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
    requests = _count(found["requests"]) if found["requests"] else None
    time_s = seconds_of(found["time"]) if found["time"] else None
    is_shadow = found["shadow"] is not None
    return Step(
        weight=0.0 if is_shadow else share,
        shadow=share if is_shadow else 0.0,
        min_requests=requests,
        min_time_s=time_s,
    )


def _count(given: str) -> int:
    count = int(re.sub("[_,]", "", given)[:_COUNT_DIGITS] or "0")
    if count > MAX_COUNT:
        raise InvalidRolloutError(f"{quoted(given)} requests are over the limit of {MAX_COUNT:,}; write fewer")
    return count


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
    words = f"shadow {_digits(100 * step.shadow)}%" if step.shadow else f"{_digits(100 * step.weight)}%"
    if step.min_requests is not None:
        words += f" for {step.min_requests} requests"
    elif step.min_time_s is not None:
        words += f" for {_duration(step.min_time_s)}"
    return words


def _duration(seconds: float) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if unit == "s" or (seconds and not seconds % _UNITS[unit]))
    return f"{_digits(seconds / _UNITS[unit])}{unit}"


def _digits(number: float) -> str:
    """Return the number without an exponent, which no step is written with."""
    return f"{number:.10f}".rstrip("0").rstrip(".")
