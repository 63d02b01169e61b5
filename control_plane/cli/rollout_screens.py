"""What `inferlane rollout` shows: a rollout's state, and what its checks say."""

from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

# Checks whose numbers are no shares of requests.
_NO_SHARES = frozenset({"prometheus", "reward"})
_ENDED = frozenset({"promoted", "rolled_back", "failed"})


def folding_table(*names: str) -> Table:
    """A table that breaks long values over lines and cuts none."""
    return Table(*(Column(name, overflow="fold") for name in names), box=None)


def state_screen(found: dict[str, Any]) -> "RenderableType":
    """Where a rollout of the API stands, on one screen."""
    spec = found["spec"]
    lines = Table.grid(padding=(0, 2))
    lines.add_row("rollout", f"{found['id']}: {spec['model']} {spec['stable']} → {spec['candidate']}")
    steps = [_step_words(step) for step in spec["steps"]]
    at = found.get("step", 0)
    shown = "  ".join(
        f"[{step}]" if number == at and found["phase"] not in _ENDED else step for number, step in enumerate(steps)
    )
    lines.add_row("steps", shown)
    lines.add_row("phase", f"{found['phase']}, {found['weight']:.0%} of the traffic")
    lines.add_row("requests", f"{found.get('requests_in_step', 0):,} in this step")
    if found.get("waits_for"):
        lines.add_row("waits for", found["waits_for"])
    if found.get("reason"):
        lines.add_row("because", found["reason"])
    if not found.get("verdicts"):
        return lines
    screen = Table.grid()
    screen.add_row(lines)
    screen.add_row(verdict_table(found["verdicts"]))
    return screen


def _step_words(step: dict[str, Any]) -> str:
    return f"shadow {step['shadow']:.0%}" if step.get("shadow") else f"{step.get('weight', 0):.0%}"


def verdict_table(verdicts: list[dict[str, Any]]) -> Table:
    """What each check says, with its numbers."""
    table = folding_table("check", "candidate", "stable", "difference", "says")
    for verdict in verdicts:
        low, high = verdict.get("low"), verdict.get("high")
        bounds = ""
        if low is not None and high is not None:
            is_share = verdict["check"] not in _NO_SHARES
            bounds = f"{100 * low:+.2f} to {100 * high:+.2f} points" if is_share else f"{low:+.4g} to {high:+.4g}"
        values = (_value(verdict, "candidate"), _value(verdict, "stable"))
        table.add_row(verdict["check"], *values, bounds, verdict.get("says", ""))
    return table


def _value(verdict: dict[str, Any], field: str) -> str:
    value = verdict.get(field)
    if value is None or verdict["check"] == "answers":
        return ""
    return f"{value:.4g}" if verdict["check"] in _NO_SHARES else f"{value:.2%}"


def time_words(seconds: float) -> str:
    """A time in the largest unit that gives at least two of it."""
    if seconds == float("inf"):
        return "never"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
