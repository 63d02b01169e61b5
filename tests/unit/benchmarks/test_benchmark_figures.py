import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.burst import Burst, bursts_to_markdown
from benchmarks.figures import Window, best_windows, figure_of, rates_by_round, ratio_by_rounds, spread_of
from benchmarks.measured import Checked, Closed, Comparison, Machine, Measured, merged
from benchmarks.report import to_markdown
from benchmarks.systems.peers import peer_names, read_peer
from benchmarks.systems.running import Running, probabilities_in
from benchmarks.targets import read_targets
from benchmarks.wrk import WrkError, parse_wrk

MACHINE = Machine(cpu="x", cores=2, memory_gib=1.0, kernel="x", python="x", measured_at="x")


def window(**changed: float) -> Window:
    values = {
        "round": 0,
        "elapsed_s": 1.0,
        "available": 1.0,
        "answered": 1000,
        "errors": 0,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
        "own_cpu_s": 0.3,
        "parts_cpu_s": 0.1,
        "rss_mib": 100.0,
    }
    return Window(**(values | changed))  # type: ignore[arg-type]


def test_a_machine_that_stands_still_half_the_time_has_the_same_rate_by_running_time() -> None:
    whole, half = window(), window(answered=500, available=0.5)
    assert figure_of([whole]).running_per_s == figure_of([half]).running_per_s == 1000
    assert figure_of([half]).answered_per_s == 500


def test_best_is_taken_from_the_windows_with_the_most_running_time() -> None:
    windows = [window(available=0.1 * n, answered=100 * n, p50_ms=100 - n) for n in range(1, 9)]
    assert [best.answered for best in best_windows(windows)] == [800, 700]
    assert figure_of(windows).best_per_s == 750
    assert figure_of(windows).p50_ms == 92.5


def test_cpu_is_summed_over_windows_so_that_one_empty_window_does_not_hide_it() -> None:
    figure = figure_of([window(own_cpu_s=0.2, answered=1000), window(own_cpu_s=0.1, answered=0)])
    assert figure.own_cpu_s_per_1000 == pytest.approx(0.3)


def test_cpu_of_no_answer_at_all_is_infinite() -> None:
    assert math.isinf(figure_of([window(answered=0)]).own_cpu_s_per_1000)


def test_no_window_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no window"):
        figure_of([])


@given(st.lists(st.floats(min_value=1, max_value=1e6), min_size=1), st.floats(min_value=0.1, max_value=100))
def test_spread_does_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    assert spread_of([value * factor for value in values]) == pytest.approx(spread_of(values), rel=1e-6, abs=1e-9)


def test_rounds_are_merged_window_by_window() -> None:
    first = Closed(windows={1: [window()]}, checked=Checked(equal=3, unequal=1))
    second = Closed(windows={1: [window(round=1)]}, checked=Checked(equal=4, failed=2))
    both = merged([first, second])
    assert [taken.round for taken in both.windows[1]] == [0, 1]
    assert both.checked == Checked(equal=7, unequal=1, failed=2)


def test_the_line_of_wrk_is_found_among_what_else_it_prints() -> None:
    line = '@{"answered": 5, "duration_us": 1000000, "errors": 1, "p50_us": 10, "p99_us": 20}'
    assert parse_wrk(f"Running 1s test\n{line}\n").answered == 5


def test_wrk_that_says_nothing_is_an_error_with_its_words() -> None:
    with pytest.raises(WrkError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1")


@pytest.mark.parametrize(
    "answer",
    [
        {"predictions": [{"label": "a", "probabilities": [0.25, 0.75]}]},
        {"labels": [1], "probabilities": [[0.25, 0.75]]},
        [{"label": 1, "probabilities": [0.25, 0.75]}],
        {"outputs": [{"name": "label", "data": [1]}, {"name": "probabilities", "data": [0.25, 0.75]}]},
    ],
)
def test_the_answer_of_every_system_is_understood(answer: object) -> None:
    assert probabilities_in(answer) == [0.25, 0.75]


@pytest.mark.parametrize("name", peer_names())
def test_every_peer_says_how_it_is_started_and_pins_what_it_runs(name: str) -> None:
    peer = read_peer(name)
    assert peer.commands
    assert all(command[0].startswith("{bin}/") for command in peer.commands)


def measured(name: str, *, answered: int) -> Measured:
    windows = {64: [window(answered=answered)]}
    figures = {64: figure_of(windows[64])}
    return Measured(
        name=name, title=name, versions=(), figures=figures, checked=Checked(equal=9, unequal=1), windows=windows
    )


def test_the_table_says_how_many_times_a_peer_inferlane_is_and_how_many_answers_were_wrong() -> None:
    comparison = Comparison(
        case="iris",
        machine=MACHINE,
        rounds=1,
        bounds=(),
        systems=(measured("inferlane", answered=3000), measured("other", answered=1500)),
    )
    (row,) = [line for line in to_markdown(comparison).splitlines() if line.startswith("| other")]
    assert "| 2.00x |" in row
    assert "| 1 of 10 |" in row


def test_each_of_ours_is_beside_the_peer_on_the_same_broker(tmp_path: Path) -> None:
    rates = {"inferlane": 300, "inferlane-apache": 200, "faststream_redis": 150, "faststream_redis-apache": 160}
    systems = tuple(measured(name, answered=rate) for name, rate in rates.items())
    comparison = Comparison(case="mlp", machine=MACHINE, rounds=1, bounds=(), systems=systems)
    (tmp_path / "mlp.json").write_bytes(msgspec.json.encode(comparison))
    (target,) = [target for target in read_targets(tmp_path) if target.what.startswith("MLP, concurrency 64")]
    assert target.measured == "2.00x embedded (faststream_redis), 1.25x on Apache Kafka (faststream_redis-apache)"
    assert not target.is_met


def test_a_machine_that_becomes_slower_meanwhile_changes_no_ratio() -> None:
    """Guards `ratio_by_rounds`: a median of one system's fast round was divided by one of another's slow round."""
    ours = [window(answered=rate, round=number) for number, rate in enumerate([400, 200, 200])]
    theirs = [window(answered=rate, round=number) for number, rate in enumerate([200, 100, 160])]
    assert ratio_by_rounds(ours, theirs) == pytest.approx(2.0)
    assert rates_by_round([*ours, window(answered=600, round=0)])[0] == pytest.approx(rates_by_round(ours)[0] * 1.25)
    with pytest.raises(ValueError, match="no round"):
        ratio_by_rounds(ours, [])


def test_the_body_asks_in_the_protocol_of_the_system() -> None:

    row = np.array([1.5, 2.5], dtype=np.float32)
    common = {"name": "x", "title": "x", "url": "", "own_pids": (), "parts_pids": (), "versions": ()}
    assert json.loads(Running(protocol="v1", **common).body(row)) == {"instances": [[1.5, 2.5]]}  # type: ignore[arg-type]
    asked = json.loads(Running(protocol="v2", **common).body(row))  # type: ignore[arg-type]
    assert asked["inputs"][0]["shape"] == [1, 2]


@pytest.mark.parametrize(("knows_deadlines", "said"), [(True, {"timeout_s": 5.0, "deadline_s": 5.0}), (False, {})])
def test_only_a_system_that_knows_deadlines_is_told_one(knows_deadlines: bool, said: dict[str, float]) -> None:
    running = Running(
        name="x",
        title="x",
        url="",
        protocol="v1",
        own_pids=(),
        parts_pids=(),
        versions=(),
        knows_deadlines=knows_deadlines,
    )
    body = json.loads(running.body(np.array([1.5], dtype=np.float32), within_s=5.0))
    assert body == {"instances": [[1.5]], **said}


def test_what_was_refused_was_not_accepted_and_the_rest_should_be_answered() -> None:
    burst = Burst(
        name="x",
        rate_per_s=10,
        duration_s=1,
        patience_s=5,
        sent=10,
        refused=4,
        answered=5,
        statuses={"200": 5, "503": 4, "timeout": 1},
        p50_ms=1.0,
        p99_ms=2.0,
        refusal_p99_ms=3.0,
        refusal_max_ms=4.0,
        available=1.0,
    )
    assert (burst.answered_share, burst.kept_share) == (0.5, pytest.approx(5 / 6))
    assert (
        "| x | 10 | 10 | 50.0% | 4 | 83.3% | 1 | 2 | 3, 4 | 200: 5, 503: 4, timeout: 1 | 100% |"
        in bursts_to_markdown([burst])
    )
