"""`inferlane rollout wait`: the end of a rollout as an exit code, for CI."""

import time
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.completions import complete_rollout
from control_plane.cli.console import err, reachable_settings

# Settings load pydantic: commands that do not need it start without (PLC0415).
# ruff: noqa: PLC0415

_PROMOTED, _ROLLED_BACK, _PAUSED, _LATE, _ERROR = 0, 1, 2, 3, 4
EXIT_CODES = {"promoted": _PROMOTED, "rolled_back": _ROLLED_BACK, "failed": _ROLLED_BACK, "paused": _PAUSED}
LOOK_S = 1.0
# What a wrong command line exits with elsewhere.
_USAGE = 2

Rollout = Annotated[
    str,
    typer.Argument(
        help="The rollout's id, or a model: then its rollout under way, or else the one that ended last.",
        autocompletion=complete_rollout,
    ),
]


class CommandForCi(TyperCommand):
    """A command that has an exit code of its own for a wrong command line: 2 is a rollout that paused."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; where it is wrong, exit with the code of what cannot be found out."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", None) == _USAGE:
                error.exit_code = _ERROR  # type: ignore[attr-defined]  # a usage error of typer, which exports no such class
            raise


def wait(
    rollout: Rollout,
    timeout: Annotated[str, typer.Option(help="Give up after this long, with exit 3: 30m, 6h.")] = "24h",
) -> None:
    """Wait for the end: exit 0 promoted, 1 rolled back or failed, 2 paused, 3 not over in time, 4 not found out.

    While the API does not answer it is asked again, until the time is over.
    """
    from inferlane.contracts.rollout_request import seconds_of
    from inferlane.errors import InferlaneError

    try:
        found = _end_of(rollout, time.monotonic() + seconds_of(timeout))
    except InferlaneError as error:
        err.print(f"error ({error.code}) {error}", soft_wrap=True)
        raise typer.Exit(_ERROR) from error
    if found["phase"] in EXIT_CODES:
        err.print(f"{found['id']} {found['phase']}: {found.get('reason', '')}")
        raise typer.Exit(EXIT_CODES[found["phase"]])
    err.print(f"{found['id']} is still {found['phase']} after {timeout}: {found.get('waits_for', '')}")
    raise typer.Exit(_LATE)


def _end_of(rollout: str, until_s: float) -> dict[str, Any]:
    """Return the rollout once it is over, paused, or the time is up."""
    from inferlane.errors import UnavailableError

    api, name, told = ApiCalls(reachable_settings()), "", ""
    while True:
        is_late = time.monotonic() > until_s
        try:
            name = name or id_of(api, rollout)
            found: dict[str, Any] = api.get(f"/v1/rollouts/{name}")
            if is_late or found["phase"] in EXIT_CODES:
                return found
        except UnavailableError as error:
            if is_late:
                raise
            if told != str(error):
                told = str(error)
                err.print(f"{error}; it is asked again", soft_wrap=True)
        time.sleep(LOOK_S)


def id_of(api: ApiCalls, given: str) -> str:
    """Return the id of a rollout by its id, or by its model: the one under way, else the one that ended last."""
    from inferlane.contracts.rollout import Phase
    from inferlane.contracts.rollout_actions import precedence

    found = api.get("/v1/rollouts")["rollouts"]
    if given in {one["id"] for one in found}:
        return given
    of_model = [one for one in found if one["spec"]["model"] == given]
    if not of_model:
        return given
    return str(max(of_model, key=lambda one: precedence(Phase(one["phase"]), one.get("phase_since_s", 0.0)))["id"])
