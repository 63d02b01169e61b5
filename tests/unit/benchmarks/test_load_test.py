"""The load test's own promises: what its schedule, its clock and its numbers mean."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from scripts._traffic.api import Api
from scripts._traffic.arrivals import ClosedLimit, OpenSchedule, send_closed, send_open
from scripts._traffic.consistency import Consistency
from scripts._traffic.documents import Prediction, Row, TensorSpec, Version
from scripts._traffic.options import parse_options
from scripts._traffic.sender import Sender
from scripts._traffic.shares import compare_routes, compare_shares
from scripts._traffic.statistics import Answer, Summary, Tally
from scripts._traffic.workload import BODIES, RANGES, Target, Workload, draw_rows

REPOSITORY = Path(__file__).resolve().parents[3]
STALL_S = 0.5
CALM_REQUESTS = 20


class StallingServer:
    """Answers at once, but from its 21st request on answers nobody until `STALL_S` have passed; once only."""

    def __init__(self) -> None:
        self.answered_before_stall = 0
        self.held = 0
        self.stalled = False
        self._over = asyncio.Event()

    async def models(self, _: web.Request) -> web.Response:
        version = {"version": "v1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
        return web.json_response({"models": [{"name": "iris", "default": True, "versions": [version]}]})

    async def predict(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.stalled and not self._over.is_set():
            self.held += 1
            await self._over.wait()
        elif not self.stalled and self.answered_before_stall == CALM_REQUESTS:
            self.stalled, self.held = True, 1
            await asyncio.sleep(STALL_S)
            self._over.set()
        self.answered_before_stall += not self.stalled
        rows = [{"label": "setosa", "probabilities": [1.0, 0.0, 0.0]} for _ in body["instances"]]
        return web.json_response({"request_id": "r", "model": "iris", "version": "v1", "predictions": rows})


@pytest.fixture
async def stalling() -> AsyncIterator[tuple[StallingServer, Sender, Tally]]:
    fake, tally = StallingServer(), Tally()
    application = web.Application()
    application.router.add_post("/v1/models/predict", fake.predict)
    async with (
        TestServer(application) as server,
        Api(str(server.make_url("")), connections=1000, timeout_s=30) as api,
    ):
        yield fake, Sender(api, make_workload(), tally), tally


def make_workload(*, routing_keys: int = 0, rows: int = 1, version: str | None = None) -> Workload:
    target = Target(model="iris", version=version)
    return Workload(target, features=4, rows=rows, routing_keys=routing_keys, seed=0)


def summary_of(*latencies_s: float, elapsed_s: float = 1.0) -> Summary:
    tally = Tally()
    for latency_s in latencies_s:
        tally.count_sent(due_s=10.0, sent_s=10.0)
        answer = Answer(status="200", version="v1")
        tally.count_answer(answer, due_s=10.0, sent_s=10.0, done_s=10.0 + latency_s)
    return tally.summarize(elapsed_s=elapsed_s)


def predicted(version: str, label: str = "a", probability: float = 1.0) -> Prediction:
    return Prediction(request_id="r", version=version, predictions=[Row(label=label, probabilities=[probability])])


def test_open_arrivals_are_equally_spaced_whatever_the_length_of_the_run() -> None:
    schedule = OpenSchedule(rate_per_s=300, duration_s=100)

    spacings = np.diff([schedule.offset_s(index) for index in range(schedule.count)])

    assert schedule.count == 30_000
    assert np.allclose(spacings, 1 / 300, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rate", "duration", "count"), [(30, 0.1, 3), (1000, 10, 10_000), (0.5, 1, 1), (3, 0.5, 1)])
def test_open_run_has_rate_times_duration_arrivals_and_at_least_one(rate: float, duration: float, count: int) -> None:
    assert OpenSchedule(rate_per_s=rate, duration_s=duration).count == count


async def test_open_loop_reports_a_stall_for_every_request_that_was_due_meanwhile(
    stalling: tuple[StallingServer, Sender, Tally],
) -> None:
    fake, sender, tally = stalling

    schedule = OpenSchedule(rate_per_s=100, duration_s=2)
    await send_open(schedule, sender, max_outstanding=1000, on_overflow=tally.count_overflow)

    summary = tally.summarize(elapsed_s=2)
    assert summary.all_succeeded
    assert summary.latency is not None
    # 50 of the 200 requests were due in the stall: the slowest 2 of them waited for nearly all of it, and one in
    # eight of all waited for half of it. Only lower bounds: a busy machine makes everything later, never earlier.
    assert summary.latency.p99_ms > 0.9 * STALL_S * 1e3
    assert np.percentile(np.asarray(tally._latency_s), 88) > 0.45 * STALL_S
    assert fake.held > 1


async def test_closed_loop_asks_only_once_during_a_stall_which_is_why_open_loop_exists(
    stalling: tuple[StallingServer, Sender, Tally],
) -> None:
    fake, sender, tally = stalling

    await send_closed(ClosedLimit(requests=200, duration_s=60, concurrency=1), sender)

    assert tally.summarize(elapsed_s=1).all_succeeded
    assert fake.stalled
    assert fake.held == 1


async def test_latency_counts_from_the_intended_time_when_the_sender_itself_was_held_up() -> None:
    tally = Tally()
    answer = Answer(status="200", version="v1")

    async def block_the_loop_once(index: int, due_s: float) -> None:
        sent_s = time.perf_counter()
        tally.count_sent(due_s=due_s, sent_s=sent_s)
        if index == 0:
            time.sleep(STALL_S)  # noqa: ASYNC251 - holding up the event loop, and with it the sender, is the point
        done_s = time.perf_counter()
        tally.count_answer(answer, due_s=due_s, sent_s=sent_s, done_s=done_s)

    schedule = OpenSchedule(rate_per_s=100, duration_s=1)
    await send_open(schedule, block_the_loop_once, max_outstanding=1000, on_overflow=tally.count_overflow)

    summary = tally.summarize(elapsed_s=1)
    assert summary.latency is not None
    assert summary.service is not None
    assert summary.send_delay is not None
    # The second request was due at 10 ms and could be sent only at 500 ms; its own service was immediate.
    assert sorted(tally._latency_s)[-2] > 0.9 * STALL_S
    assert summary.send_delay.max_ms > 0.9 * STALL_S * 1e3
    assert summary.service.p50_ms < summary.latency.p90_ms


async def test_arrivals_beyond_the_outstanding_limit_are_counted_and_not_sent() -> None:
    release, tally, sent = asyncio.Event(), Tally(), []

    async def wait(index: int, _: float) -> None:
        sent.append(index)
        async with asyncio.timeout(30):
            await release.wait()

    def count_overflow() -> None:
        tally.count_overflow()
        if tally.overflow == 7:
            release.set()

    schedule = OpenSchedule(rate_per_s=1000, duration_s=0.01)
    await send_open(schedule, wait, max_outstanding=3, on_overflow=count_overflow)

    assert sent == [0, 1, 2]
    assert tally.overflow == 7
    assert not tally.summarize(elapsed_s=1).all_succeeded


async def test_closed_loop_never_has_more_than_its_concurrency_under_way() -> None:
    under_way, most, indexes = 0, 0, []

    async def send(index: int, _: float) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        indexes.append(index)
        await asyncio.sleep(0)
        under_way -= 1

    await send_closed(ClosedLimit(requests=50, duration_s=30, concurrency=4), send)

    assert most == 4
    assert sorted(indexes) == list(range(50))


async def test_closed_loop_starts_nothing_after_its_time_is_over() -> None:
    async def outlast_the_limit(_: int, __: float) -> None:
        await asyncio.sleep(0.05)

    async with asyncio.timeout(30):
        await send_closed(ClosedLimit(requests=10**9, duration_s=0.1, concurrency=2), outlast_the_limit)


def test_percentiles_are_those_of_all_samples_in_milliseconds() -> None:
    summary = summary_of(*(value / 1e3 for value in range(1, 102)))

    latency = summary.latency
    assert latency is not None
    assert latency.samples == 101
    assert [latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms, latency.max_ms] == pytest.approx(
        [51, 91, 96, 100, 101]
    )


def test_rate_counts_http_answers_of_any_status_and_nothing_else() -> None:
    tally = Tally()
    for status, code in [("200", ""), ("503", "backlog"), ("timeout", "")]:
        tally.count_sent(due_s=0, sent_s=0)
        tally.count_answer(Answer(status=status, code=code), due_s=0, sent_s=0, done_s=1)
    tally.count_sent(due_s=0, sent_s=0)

    summary = tally.summarize(elapsed_s=2)

    assert summary.answered_per_s == 1.0
    assert summary.statuses == {"200": 1, "503": 1, "timeout": 1}
    assert summary.codes == {"backlog": 1}
    assert summary.abandoned == 1
    assert summary.other_latency is not None
    assert summary.other_latency.samples == 2
    assert not summary.all_succeeded


def test_a_run_without_requests_has_not_succeeded() -> None:
    assert not Tally().summarize(elapsed_s=0).all_succeeded


def test_a_200_that_cannot_be_read_is_no_success() -> None:
    assert not Answer(status="200", code="undecodable_body").is_success


def test_same_body_and_version_with_another_label_is_a_contradiction() -> None:
    check = Consistency(rows=1, version=None, tolerance=1e-6)
    for prediction in (predicted("v1"), predicted("v2", label="b"), predicted("v1", label="b")):
        check.observe(prediction, body_number=0, routing_key=None)

    assert check.violations == 1


def test_probabilities_may_differ_by_rounding_only() -> None:
    check = Consistency(rows=1, version=None, tolerance=1e-6)
    for probability in (0.5, 0.5 + 1e-7, 0.51):
        check.observe(predicted("v1", probability=probability), body_number=0, routing_key=None)

    assert check.violations == 1
    assert check.largest_difference == pytest.approx(0.01)


def test_routing_key_that_changes_its_version_is_a_contradiction() -> None:
    check = Consistency(rows=1, version=None, tolerance=0)
    for key, version in [("user-1", "v1"), ("user-2", "v2"), ("user-1", "v2")]:
        check.observe(predicted(version), body_number=0, routing_key=key)

    assert check.violations == 1


def test_answer_from_another_version_than_the_pinned_one_is_a_contradiction() -> None:
    check = Consistency(rows=1, version="v2", tolerance=0)
    check.observe(predicted("v1"), body_number=0, routing_key=None)

    assert check.violations == 1


def test_missing_row_is_a_contradiction() -> None:
    check = Consistency(rows=2, version=None, tolerance=0)
    check.observe(predicted("v1"), body_number=0, routing_key=None)

    assert check.violations == 1


@pytest.mark.parametrize(("model", "features"), [("iris", 4), ("digits", 64)])
def test_drawn_rows_stay_in_the_models_range_and_repeat_for_a_seed(model: str, features: int) -> None:
    rows = draw_rows(model, features=features, rows=100, seed=3)

    assert np.shape(rows) == (100, features)
    assert RANGES[model].low <= np.min(rows)
    assert np.max(rows) <= RANGES[model].high
    assert rows == draw_rows(model, features=features, rows=100, seed=3)


def test_body_carries_what_was_asked_for() -> None:
    body = json.loads(make_workload(routing_keys=7, rows=3, version="v2").body(9))

    assert np.shape(body["instances"]) == (3, 4)
    assert (body["model"], body["version"], body["routing_key"]) == ("iris", "v2", "user-2")


def test_every_routing_key_meets_every_body_also_when_their_counts_share_a_factor() -> None:
    workload = make_workload(routing_keys=BODIES)

    met = {workload.body_number(index) for index in range(BODIES * BODIES) if workload.routing_key(index) == "user-5"}

    assert len(met) == BODIES


def test_feature_count_is_the_product_of_the_fixed_dimensions() -> None:
    version = Version(version="v1", inputs=[TensorSpec(shape=[-1, 8, 8])])

    assert version.features == 64


def test_share_is_wrong_beyond_four_binomial_standard_deviations() -> None:
    # Of 10,000 at 10 %, one standard deviation is 30.
    inside = compare_shares({"v1": 90, "v2": 10}, {"v1": 8_881, "v2": 1_119})
    outside = compare_shares({"v1": 90, "v2": 10}, {"v1": 8_879, "v2": 1_121})

    assert all(share.is_as_expected for share in inside)
    assert not any(share.is_as_expected for share in outside)


def test_version_without_weight_must_not_answer() -> None:
    shares = {share.version: share for share in compare_shares({"v1": 1, "v2": 0}, {"v1": 9_999, "v3": 1})}

    assert shares["v2"].is_as_expected
    assert not shares["v3"].is_as_expected


def test_only_moves_to_the_raised_version_are_joins() -> None:
    before = {"a": "v1", "b": "v1", "c": "v2", "d": "v2"}
    after = {"a": "v1", "b": "v2", "c": "v2", "d": "v1"}

    moves = compare_routes(before, after, raised="v2")

    assert (moves.kept, moves.joined, moves.left) == (2, 1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "open", "--requests", "5"],
        ["--rate", "5"],
        ["--split", "v1=90,v1=10"],
        ["--split", "v1"],
        ["--split", "v1=-1,v2=2"],
        ["--split", "v1=0"],
        ["--duration", "0"],
        ["--duration", "nan"],
        ["--rows", "0"],
        ["--url", "localhost:8000"],
        ["--mode", "open", "--rate", "1e9"],
        ["--json", "no/such/folder/results.json"],
    ],
)
def test_command_line_that_makes_no_sense_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_options(arguments, environment_url=None)

    assert exit_.value.code == 2


def test_url_comes_from_the_flag_then_the_environment_then_the_default() -> None:
    assert parse_options(["--url", "http://flag"], environment_url="http://env").url == "http://flag"
    assert parse_options([], environment_url="http://env").url == "http://env"
    assert parse_options([], environment_url=None).url == "http://127.0.0.1:8000"


def test_closed_run_is_bounded_in_count_and_time_whatever_was_asked() -> None:
    for arguments in ([], ["--requests", "5"], ["--duration", "5"]):
        limit = parse_options(arguments, environment_url=None).arrivals
        assert isinstance(limit, ClosedLimit)
        assert limit.requests <= 2_000_000
        assert limit.duration_s <= 600


async def run_script(server: TestServer, *arguments: str, interrupt_after: asyncio.Event | None = None) -> str:
    """Run the script against the server; return its output with the exit status as the last line."""
    script = str(REPOSITORY / "scripts" / "load_test.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, "--url", str(server.make_url("")), *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        if interrupt_after is not None:
            await interrupt_after.wait()
            process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    return f"{output.decode()}{process.returncode}"


async def test_script_exits_0_and_writes_its_numbers_when_every_request_was_answered(tmp_path: Path) -> None:
    fake, results = StallingServer(), tmp_path / "results.json"
    application = web.Application()
    application.router.add_post("/v1/models/predict", fake.predict)
    application.router.add_get("/v1/models", fake.models)
    async with TestServer(application) as server:
        output = await run_script(server, "--requests", "50", "--check", "--json", str(results))

    numbers = json.loads(results.read_text())
    assert output.splitlines()[-1] == "0", output
    assert (numbers["sent"], numbers["statuses"], numbers["versions"]) == (50, {"200": 50}, {"v1": 50})
    assert numbers["check"]["violations"] == 0


async def test_script_prints_the_results_so_far_and_exits_1_on_ctrl_c() -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await never.wait()
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/v1/models/predict", hang)
    application.router.add_get("/v1/models", StallingServer().models)
    async with TestServer(application) as server:
        output = await run_script(server, "--concurrency", "4", interrupt_after=asked)
        never.set()

    assert output.splitlines()[-1] == "1", output
    assert "Interrupted" in output
    assert "still waiting" in output
