"""`inferlane rollout plan`: how long a rollout takes at today's traffic, and what each step can see."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.completions import complete_model, complete_version
from control_plane.cli.console import AsJson, out, reachable_settings, write_json
from control_plane.cli.rollout_checks import Checks, checks_of, planned_checks
from control_plane.cli.rollout_screens import folding_table, time_words

# The statistics load numpy: commands that do not need it start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.contracts.rollout import RolloutSpec

Model = Annotated[str, typer.Argument(help="The model.", autocompletion=complete_model)]
Candidate = Annotated[
    str, typer.Argument(help="The version that is to get the traffic.", autocompletion=complete_version)
]
Stable = Annotated[
    str, typer.Option(help="Default: the version with the largest weight.", autocompletion=complete_version)
]
Steps = Annotated[
    str, typer.Option(help="Steps, with commas between: weights in percent, or `shadow 10% for 2000 requests`.")
]
MinRequests = Annotated[int, typer.Option(min=0, help="Requests of the candidate that each step takes at least.")]
MinTime = Annotated[str, typer.Option(help="Time that each step takes at least: 30s, 2m, 1h.")]


def steps_of(given: str, *, shadow: str = "") -> list[str]:
    """Return the steps of a command line, a shadow step first if there is one."""
    asked = [part.strip() for part in given.split(",")]
    return [f"shadow {shadow}", *asked] if shadow else asked


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step at today's traffic; `takes_s` is infinite without traffic, `sees_failures_from` None if it sees none."""

    step: str
    takes_s: float
    candidate_requests: float
    sees_failures_from: float | None


def plan(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    model: Model,
    candidate: Candidate,
    steps: Steps = "1,5,25,50,100",
    stable: Stable = "",
    min_requests: MinRequests = 500,
    min_time: MinTime = "2m",
    check: Checks = None,
    as_json: AsJson = False,
) -> None:
    """Say how long each step takes at the traffic of the last hour, and what difference it can see. Changes nothing."""
    from inferlane.contracts.rollout_request import read_request, spec_of

    checks = checks_of(check or [])
    asked = read_request(
        {
            "model": model,
            "candidate": candidate,
            "steps": steps_of(steps),
            "each": {"min_requests": min_requests, "min_time": min_time},
            "checks": checks,
        }
    )
    api = ApiCalls(reachable_settings())
    of_candidate = api.get(f"/v1/metrics/{candidate}?model={model}&window_s=60")
    weights: dict[str, float] = api.get(f"/v1/traffic-split?model={model}")["weights"]
    stable = stable or max(weights, key=lambda version: weights[version])
    # What a start would refuse is refused here too.
    spec = spec_of(asked, model=model, stable=stable)
    hour = api.get(f"/v1/metrics/{stable}?model={model}&window_s=3600")
    # Of a version without weight nobody knows how much traffic the whole model has.
    rate = hour["rate_per_s"] / (weights.get(stable) or 1.0)
    failing = hour["error_rate"] or 0.0
    planned = tuple(_planned_steps(spec, rate=rate, failing=failing))
    total_s = sum(step.takes_s for step in planned)
    notes = list(planned_checks(checks, {stable: hour, candidate: of_candidate}, rate=hour["rate_per_s"]))
    if as_json:
        of_model = {"model": model, "stable": stable, "candidate": candidate, "rate_per_s": rate, "error_rate": failing}
        write_json({**of_model, "steps": planned, "takes_s": total_s, "checks": notes})
        return
    out.print(f"{model}: {stable} → {candidate}, {rate:.2f} requests/s in the last hour, {failing:.2%} of them failed")
    table = folding_table("step", "takes about", "requests of the candidate", "sees failures from")
    for step in planned:
        seen = "none" if step.sees_failures_from is None else f"{step.sees_failures_from:.2%}"
        table.add_row(step.step, time_words(step.takes_s), f"{step.candidate_requests:,.0f}", seen)
    out.print(table)
    for line in notes:
        out.print(line)
    if rate:
        out.print(f"about {time_words(total_s)} in all, and the time with all traffic (`bake`) after that")
    else:
        out.print("there was no traffic in the last hour: a step would wait for requests, and pause after max_wait")


def _planned_steps(spec: "RolloutSpec", *, rate: float, failing: float) -> Iterator[PlannedStep]:
    """Plan the steps one after the other, at `rate` requests a second of which the share `failing` fails."""
    from inferlane.contracts.rollout_request import words_of
    from router.rollouts.statistics import visible_share

    seen = 0.0
    for step in spec.steps:
        needed = step.min_requests if step.min_requests is not None else spec.each.min_requests
        least_s = step.min_time_s if step.min_time_s is not None else spec.each.min_time_s
        share = step.shadow or step.weight
        requests = max(needed, rate * share * least_s)
        seen += requests
        visible = visible_share(max(failing, 1e-4), seen, weight=min(share, 0.99), alpha=0.01)
        yield PlannedStep(
            step=words_of(step),
            takes_s=max(least_s, needed / (rate * share)) if rate else math.inf,
            candidate_requests=requests,
            sees_failures_from=None if visible >= 1 else visible,
        )
