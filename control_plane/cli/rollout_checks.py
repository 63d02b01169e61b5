"""The `--check` options of a rollout, and what a plan can say of such checks before anything moves."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from control_plane.cli.completions import complete_check
from control_plane.cli.rollout_screens import time_words

# The statistics load numpy: commands that do not need it start without (PLC0415).
# ruff: noqa: PLC0415

Checks = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        help="latency=50ms, errors=0.5% (margin), answers=0.2 (distance), agreement=99%, quality=1% or reward=0.5 "
        "(margins), 'prometheus=QUERY <= 0.05' (or >=); repeat it.",
        autocompletion=complete_check,
    ),
]


def checks_of(given: list[str]) -> dict[str, dict[str, Any]]:
    """The checks of a rollout: those of every rollout, and those that the options name.

    Raises:
        typer.BadParameter: an option is none.
    """
    checks: dict[str, dict[str, Any]] = {name: {} for name in ("errors", "latency", "expired", "answers", "share")}
    fields = {"latency": "budget_ms", "answers": "distance", "agreement": "agreement"}
    fields |= dict.fromkeys(("errors", "quality", "reward"), "margin")
    for one in given:
        name, _, value = one.partition("=")
        if name == "prometheus":
            checks[name] = _bounded_query(value)
            continue
        if value and name not in fields:
            raise typer.BadParameter(f"--check {one!r}: {name} takes no value; it may be latency, errors, answers …")
        try:
            scale = 0.01 if value.endswith("%") else 1.0
            checks[name] = {fields[name]: scale * float(value.removesuffix("ms").removesuffix("%"))} if value else {}
        except ValueError as error:
            raise typer.BadParameter(f"--check {one!r} is not a number; write latency=50ms or errors=0.5%") from error
    return checks


def _bounded_query(given: str) -> dict[str, Any]:
    sign, field = (">=", "min") if given.rfind(">=") > given.rfind("<=") else ("<=", "max")
    query, _, bound = given.rpartition(sign)
    try:
        return {"query": query.strip(), field: float(bound)}
    except ValueError as error:
        raise typer.BadParameter(
            f"--check prometheus={given!r} has no bound; write 'prometheus=QUERY <= 0.05', or >="
        ) from error


def planned_checks(checks: dict[str, dict[str, Any]], reports: dict[str, Any], *, rate: float) -> Iterator[str]:
    """What each check needs that is no question of requests alone, a line each.

    `reports` are those of both versions (`GET /v1/metrics`), the stable one first, `rate` is its requests a second.
    """
    from router.rollouts.answer_evidence import VALUES_FOR_EDGES

    stable = next(iter(reports))
    if "answers" in checks and reports[stable].get("prediction_values"):
        takes = f", about {time_words(VALUES_FOR_EDGES / rate)} of its traffic" if rate else ""
        yield (
            f"answers: values are compared by the deciles of the first {VALUES_FOR_EDGES} that {stable} predicts in "
            f"the rollout{takes}"
        )
    for name in ("quality", "reward"):
        if name in checks:
            yield _feedback_words(name, checks[name], reports)
    if metric := checks.get("prometheus"):
        bound = f"at most {metric['max']:g}" if "max" in metric else f"at least {metric['min']:g}"
        yield (
            f"prometheus: {metric['query']} must be {bound} in every step, or the rollout is rolled back; while it has "
            "no value a step waits, then pauses"
        )


def _feedback_words(name: str, options: dict[str, Any], reports: dict[str, Any]) -> str:
    from inferlane.contracts.rollout import CheckOptions
    from router.rollouts.outside_checks import pieces_to_show

    asked = CheckOptions(**options)
    measured = {version: (report.get("feedback") or {}).get(name) or {} for version, report in reports.items()}
    have = [f"{version} has {one.get('count', 0):,}" for version, one in measured.items()]
    stable = next(iter(measured.values()))
    words = f"{name}: needs {asked.min_count:,} pieces of feedback on each version; {', '.join(have)}"
    if name == "quality" and stable:
        mean = stable["mean"]
        pieces = max(asked.min_count, pieces_to_show(mean * (1 - mean), margin=asked.margin))
        words += (
            f"; about {pieces:,} on each show an equal candidate to be no worse than by {100 * asked.margin:g} points"
        )
    return words
