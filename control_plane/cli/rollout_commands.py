"""`inferlane rollout`: plan, start and watch a rollout, and tell it what to do."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.console import AsJson, err, out, reachable_settings, write_json
from control_plane.cli.rollout_checks import Checks, checks_of
from control_plane.cli.rollout_plan import Candidate, MinRequests, MinTime, Model, Stable, Steps, plan, steps_of
from control_plane.cli.rollout_screens import state_screen, verdict_table
from control_plane.cli.rollout_wait import EXIT_CODES, LOOK_S, CommandForCi, Rollout, id_of, wait

# The statistics load numpy: commands that do not need it start without (PLC0415).
# ruff: noqa: PLC0415

app = typer.Typer(no_args_is_help=True, help="Move traffic to a new version step by step, with a verdict at each step.")
app.command()(plan)
app.command(cls=CommandForCi)(wait)

# A rollout has some hundred values in a line each.
_MAX_FILE_BYTES = 256 * 1024
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history. Default: none.")]


@app.command()
def start(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    model: Model,
    candidate: Candidate,
    steps: Steps = "1,5,25,50,100",
    stable: Stable = "",
    shadow: Annotated[str, typer.Option(help="A shadow step before the others, such as 10%. Default: none.")] = "",
    min_requests: MinRequests = 500,
    min_time: MinTime = "2m",
    max_wait: Annotated[str, typer.Option(help="How long a step may wait for its requests; then it pauses.")] = "6h",
    bake: Annotated[str, typer.Option(help="How long all traffic is watched at the end.")] = "10m",
    promote_after: Annotated[
        int, typer.Option(min=0, help="Requests without an alarm that are enough without proof; 0: none are.")
    ] = 0,
    check: Checks = None,
    lane: Annotated[list[str] | None, typer.Option(help="requests or bulk. Default: both.")] = None,
    fallback: Annotated[
        str, typer.Option(help="stable answers what the candidate fails; none lets it fail.")
    ] = "stable",
    notify: Annotated[
        list[str] | None, typer.Option(help="A URL that every event is sent to, signed; repeat it. Default: none.")
    ] = None,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the rollout and start nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a rollout. `inferlane rollout plan` says first how long it takes."""
    body: dict[str, Any] = {
        "model": model,
        "candidate": candidate,
        "stable": stable,
        "steps": steps_of(steps, shadow=shadow),
        "each": {
            "min_requests": min_requests,
            "min_time": min_time,
            "max_wait": max_wait,
            "promote_after": promote_after,
        },
        "bake": bake,
        "fallback": fallback,
        "reason": reason,
    }
    if check:
        body["checks"] = checks_of(check)
    if lane:
        body["lanes"] = lane
    if notify:
        body["notify"] = notify
    _begin(body, dry_run=dry_run, as_json=as_json)


@app.command()
def apply(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="rollout.yaml; `inferlane rollout schema` has its schema.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and start nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the rollout that a file describes."""
    _begin(read_file(file), dry_run=dry_run, as_json=as_json)


def read_file(file: Path) -> Any:
    """Return what a rollout.yaml says.

    Raises:
        InvalidRolloutError: it cannot be read, or is too large.
    """
    import yaml

    from inferlane.errors import InvalidRolloutError

    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise InvalidRolloutError(
                f"{file} has over {_MAX_FILE_BYTES:,} bytes; a rollout needs no more than a few lines"
            )
        return yaml.safe_load(raw.decode())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidRolloutError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error


@app.command()
def schema() -> None:
    """Print the JSON Schema of rollout.yaml."""
    from inferlane.contracts.rollout_request import request_schema

    write_json(request_schema())


@app.command("list")
def list_rollouts(as_json: AsJson = False) -> None:
    """List rollouts, the newest first."""
    found = ApiCalls(reachable_settings()).get("/v1/rollouts")["rollouts"]
    if as_json:
        write_json(found)
        return
    if not found:
        err.print("there is no rollout; `inferlane rollout start MODEL CANDIDATE` begins one")
    for one in found:
        spec = one["spec"]
        out.print(f"{one['id']}: {spec['model']} {spec['stable']} → {spec['candidate']}, {_where(one)}")
        if why := one.get("waits_for") or one.get("reason"):
            out.print(f"  {why}")


@app.command()
def status(
    rollout: Rollout,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until it is over or paused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a rollout stands and what each check says."""
    api = ApiCalls(reachable_settings())
    name = id_of(api, rollout)
    found = api.get(f"/v1/rollouts/{name}")
    if as_json:
        write_json(found)
        return
    if not watch:
        out.print(state_screen(found))
        return
    with Live(state_screen(found), console=out, auto_refresh=False) as live:
        while found["phase"] not in EXIT_CODES:
            time.sleep(LOOK_S)
            found = api.get(f"/v1/rollouts/{name}")
            live.update(state_screen(found), refresh=True)


@app.command()
def pause(rollout: Rollout, reason: Reason = "") -> None:
    """Keep the weights as they are; checks go on, and may still roll it back."""
    _command(rollout, "pause", reason)


@app.command()
def resume(rollout: Rollout, reason: Reason = "") -> None:
    """Go on where it paused. What has failed so far is accepted, and a split that was set by hand is taken back."""
    _command(rollout, "resume", reason)


@app.command()
def promote(rollout: Rollout, reason: Reason = "") -> None:
    """Give the candidate all traffic now; it is still watched while it bakes."""
    _command(rollout, "promote", reason)


@app.command()
def abort(rollout: Rollout, reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")]) -> None:
    """Take the candidate's traffic away."""
    _command(rollout, "abort", reason)


@app.command()
def history(rollout: Rollout, as_json: AsJson = False) -> None:
    """List what happened, with the reason of each step."""
    api = ApiCalls(reachable_settings())
    events = api.get(f"/v1/rollouts/{id_of(api, rollout)}").get("events", [])
    if as_json:
        write_json(events)
        return
    for event in events:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_s"]))
        who = f" by {event['by']}" if event.get("by") else ""
        out.print(f"{event['number']:>3}  {at}  {_where(event)}{who}")
        out.print(f"     {event.get('reason', '')}")


@app.command()
def explain(
    rollout: Rollout,
    number: Annotated[int | None, typer.Argument(help="The event by its number. Default: every event.")] = None,
) -> None:
    """Show the numbers that each transition was decided on."""
    api = ApiCalls(reachable_settings())
    for event in api.get(f"/v1/rollouts/{id_of(api, rollout)}").get("events", []):
        if number is None or event["number"] == number:
            title = f"{event['number']}. {event['was']} → {event['phase']}: {event.get('reason', '')}"
            out.print(f"{title} ({event.get('requests', 0):,} requests in the step)")
            if event.get("verdicts"):
                out.print(verdict_table(event["verdicts"]))


def _where(found: dict[str, Any]) -> str:
    return f"{found['phase']}, {found.get('weight', 0):.0%} of the traffic"


def _begin(body: Any, *, dry_run: bool, as_json: bool) -> None:
    from inferlane.contracts.rollout_request import read_request, spec_of

    asked = read_request(body)
    # What the API would refuse is refused here too, with no stack running.
    spec_of(asked, model=asked.model or "default", stable=asked.stable or " ")
    if dry_run:
        write_json(body)
        return
    found = ApiCalls(reachable_settings()).post("/v1/rollouts", body)
    if as_json:
        write_json(found)
    else:
        out.print(state_screen(found))
        err.print(f"watch it: inferlane rollout status {found['id']} --watch")


def _command(rollout: str, action: str, reason: str) -> None:
    api = ApiCalls(reachable_settings())
    out.print(state_screen(api.post(f"/v1/rollouts/{id_of(api, rollout)}/{action}", {"reason": reason})))
