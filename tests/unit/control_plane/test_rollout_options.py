"""The options of `inferlane rollout start` that name checks, and how verdicts are shown."""

import io
import json
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from control_plane.cli.api_calls import ApiCalls
from control_plane.cli.main import command_line
from control_plane.cli.rollout_checks import checks_of, planned_checks
from control_plane.cli.rollout_screens import verdict_table
from control_plane.cli.rollout_wait import id_of


def test_a_check_is_named_with_its_number() -> None:
    found = checks_of(["latency=50ms", "quality=1%", "reward=0.5", "agreement=99%", "errors=0.5%"])
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
    assert checks_of([given])["prometheus"] == expected


@pytest.mark.parametrize("given", ["prometheus=up", "prometheus=up <= much", "errors=few", "share=1"])
def test_a_check_without_a_number_that_it_needs_is_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        checks_of([given])


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


def test_a_plan_says_what_each_check_needs_beside_requests() -> None:
    quality = {"count": 400, "mean": 0.9, "low": 0.85, "high": 0.95}
    stable = {"feedback": {"quality": quality, "reward": None}, "prediction_values": {"p50": 1.0}}
    candidate = {"feedback": None}
    checks = checks_of(["quality=2%", "reward=0.5", "prometheus=max(lag) <= 5"])
    lines = list(planned_checks(checks, {"v1": stable, "v2": candidate}, rate=2.0))
    assert [line.partition(":")[0] for line in lines] == ["answers", "quality", "reward", "prometheus"]
    assert "the first 200 that v1 predicts in the rollout, about 100 s of its traffic" in lines[0]
    assert "needs 100 pieces of feedback on each version; v1 has 400, v2 has 0; about" in lines[1]
    assert lines[1].endswith("show an equal candidate to be no worse than by 2 points")
    assert lines[2] == "reward: needs 100 pieces of feedback on each version; v1 has 0, v2 has 0"
    assert "max(lag) must be at most 5 in every step" in lines[3]
    # A classifier has no deciles, and a rollout without such checks needs nothing of the kind.
    assert list(planned_checks(checks_of([]), {"v1": candidate, "v2": candidate}, rate=0.0)) == []


@pytest.mark.parametrize(("rate", "takes_s"), [(2.0, [5_000.0, 500.0, 250.0]), (0.0, [None, None, None])])
def test_a_plan_for_programs_has_numbers_and_none_for_what_has_no_end(
    monkeypatch: pytest.MonkeyPatch, rate: float, takes_s: list[float | None]
) -> None:
    def get(_: ApiCalls, path: str) -> Any:
        if path.startswith("/v1/traffic-split"):
            return {"weights": {"v1": 1.0}}
        return {"rate_per_s": rate, "error_rate": 0.01}

    monkeypatch.setattr(ApiCalls, "get", get)
    argv = ["rollout", "plan", "iris", "v2", "--json", "--steps", "5,50,100", "--check", "prometheus=up >= 1"]
    if not rate:
        argv += ["--min-requests", "1"]
    said = json.loads(CliRunner().invoke(command_line(), argv).stdout)
    assert (said["model"], said["stable"], said["candidate"]) == ("iris", "v1", "v2")
    assert (said["rate_per_s"], said["error_rate"]) == (rate, 0.01)
    assert [step["takes_s"] for step in said["steps"]] == takes_s
    assert said["takes_s"] == (sum(filter(None, takes_s)) if rate else None)
    assert [step["step"] for step in said["steps"]] == ["5%", "50%", "100%"]
    assert len(said["checks"]) == 1
    assert said["checks"][0].startswith("prometheus: up must be at least 1")
    if rate:
        assert 0.01 < said["steps"][0]["sees_failures_from"] < 1
    else:
        # One request shows no failure.
        assert said["steps"][0]["sees_failures_from"] is None


@pytest.mark.parametrize(
    ("ended", "expected"), [(None, "iris-won"), ("promoted", "iris-won"), ("absent", "iris-lost2")]
)
def test_a_model_stands_for_the_rollout_that_was_not_refused_at_its_start(
    monkeypatch: pytest.MonkeyPatch, ended: str | None, expected: str
) -> None:
    spec = {"model": "iris", "candidate": "v2", "stable": "v1"}
    won = {"id": "iris-won", "spec": spec, "phase": ended or "stepping", "phase_since_s": 20.0 if ended else 5.0}
    lost = [{"id": f"iris-lost{n}", "spec": spec, "phase": "failed", "phase_since_s": 10.0 + n} for n in (2, 1)]
    found = lost if ended == "absent" else [*lost, won]
    monkeypatch.setattr(ApiCalls, "get", lambda *_: {"rollouts": found})
    api = ApiCalls.__new__(ApiCalls)
    assert id_of(api, "iris") == expected
    assert id_of(api, "iris-lost1") == "iris-lost1"
    assert id_of(api, "fraud") == "fraud"
