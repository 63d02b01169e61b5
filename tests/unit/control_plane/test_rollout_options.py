"""The options of `inferlane rollout start` that name checks, and how verdicts are shown."""

import io

import pytest
import typer
from rich.console import Console

from control_plane.cli.rollout_commands import _checks
from control_plane.cli.rollout_screens import verdict_table


def test_a_check_is_named_with_its_number() -> None:
    found = _checks(["latency=50ms", "quality=1%", "reward=0.5", "agreement=99%", "errors=0.5%"])
    assert found["latency"] == {"budget_ms": 50.0}
    assert (found["quality"], found["reward"], found["errors"]) == (
        {"margin": 0.01},
        {"margin": 0.5},
        {"margin": 0.005},
    )
    assert found["agreement"] == {"agreement": pytest.approx(0.99)}
    assert {"expired", "answers", "share"} <= found.keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("prometheus=max(lag) <= 5", {"query": "max(lag)", "max": 5.0}),
        ("prometheus=sum(a <= bool 3) >= 0.5", {"query": "sum(a <= bool 3)", "min": 0.5}),
        ('prometheus=rate(x{a="b"}[5m])<=1e-3', {"query": 'rate(x{a="b"}[5m])', "max": 0.001}),
    ],
)
def test_a_query_has_its_bound_behind_it(given: str, expected: dict[str, object]) -> None:
    assert _checks([given])["prometheus"] == expected


@pytest.mark.parametrize("given", ["prometheus=up", "prometheus=up <= much", "errors=few", "share=1"])
def test_a_check_without_a_number_that_it_needs_is_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        _checks([given])


def test_rewards_are_shown_in_their_own_unit_and_shares_in_percent() -> None:
    shown = io.StringIO()
    verdicts = [
        {"check": "reward", "candidate": 12.5, "stable": 13.0, "low": -1.25, "high": 0.25, "says": "not yet sure"},
        {"check": "errors", "candidate": 0.01, "stable": 0.02, "low": -0.01, "high": 0.0, "says": "better"},
    ]
    Console(file=shown, width=120).print(verdict_table(verdicts))
    reward, errors = shown.getvalue().splitlines()[1:]
    assert "12.5" in reward
    assert "-1.25 to +0.25 " in reward
    assert "-1.00 to +0.00 points" in errors
    assert "1.00%" in errors
