"""What the live dashboard makes of what it sees: rates, the verdict, the snapshot, and who may call."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import live
from dashboards.live.api_client import (
    ApiModel,
    ApiModelList,
    ApiTensor,
    ApiVersion,
    Example,
    Guard,
    refusal,
    refuse_open_network,
)
from dashboards.live.dead_letter_tally import DeadLetterSummary, DeadLetterTally
from dashboards.live.observer import DeploymentObserver, Parts, SnapshotFeed
from dashboards.live.rollout_card import RolloutCard
from dashboards.live.snapshot import (
    KEPT_S,
    History,
    ModelCard,
    Point,
    Sighting,
    Snapshot,
    SourceState,
    VersionCard,
    VersionPoint,
    build_snapshot,
)
from dashboards.live.traffic import (
    Queue,
    QueueRates,
    Signs,
    Tone,
    headline_of,
    router_queue,
    subscriptions,
    total,
    version_queue,
)
from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.naming import Names
from inferlane.contracts.windows import LatencyReport, Percentiles, ResourceReport, WindowReport
from inferlane.errors import ConfigurationError, OverloadedError, UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.offsets import Position, Subscription
from inferlane.runtime.runfile import ProcessRecord, RunFile
from inferlane.runtime.service_settings import ApiSettings, DashboardSettings
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord

NAMES = Names()
ROUTER_QUEUE = REQUESTS, BULK = router_queue(NAMES)


def version_info(version: str, weight: float) -> ApiVersion:
    shape = ApiTensor(name="input", datatype="FP32", shape=(-1, 4))
    return ApiVersion(version=version, weight=weight, quantization="none", size_bytes=2_000, inputs=(shape,))


IRIS = ApiModel(
    name="iris", description="flowers", default=True, versions=(version_info("v1", 0.9), version_info("v2", 0.1))
)


def report(version: str, *, requests: int = 600, error_rate: float = 0.0, workers: int = 1) -> WindowReport:
    part = Percentiles(p50=1.0, p95=5.0, p99=9.0)
    return WindowReport(
        model="iris",
        version=version,
        window_s=60,
        age_s=0.5,
        requests=requests,
        rate_per_s=requests / 60,
        error_rate=error_rate,
        outcomes={},
        failures={},
        latency_ms=LatencyReport(queue_wait=part, inference=part, total=part),
        batches=1,
        rows=requests,
        prediction_distribution={"setosa": requests},
        prediction_values=None,
        resources=ResourceReport(workers=workers, cpu_cores=0.1, memory_bytes=1_000),
    )


def everywhere(models: tuple[ApiModel, ...], *, committed: int, end: int) -> Mapping[Subscription, Position]:
    return {part: Position(committed=committed, end=end) for part in subscriptions(NAMES, models)}


def test_a_rate_is_what_moved_over_the_last_seconds() -> None:
    rates = QueueRates()
    assert rates.queue(ROUTER_QUEUE) == Queue()
    for second in range(20):
        moved = 100 * second if second < 10 else 1_000 + 20 * (second - 10)
        rates.note({REQUESTS: Position(committed=moved, end=moved + 7)}, at_s=float(second))
    queue = rates.queue(ROUTER_QUEUE)
    assert (queue.lag_records, queue.arriving_per_s, queue.leaving_per_s) == (7, 20.0, 20.0)


def test_one_look_tells_what_waits_and_no_rate() -> None:
    rates = QueueRates()
    rates.note({REQUESTS: Position(committed=1, end=4), BULK: Position(committed=0, end=5)}, at_s=0)
    assert rates.queue(ROUTER_QUEUE) == Queue(lag_records=8)


def test_a_broker_that_forgot_everything_makes_no_negative_rate() -> None:
    rates = QueueRates()
    rates.note({REQUESTS: Position(committed=900, end=1_000)}, at_s=0)
    rates.note({REQUESTS: Position(committed=0, end=3)}, at_s=1)
    assert rates.queue(ROUTER_QUEUE) == Queue(lag_records=3)
    rates.note({REQUESTS: Position(committed=3, end=3)}, at_s=2)
    assert rates.queue(ROUTER_QUEUE).leaving_per_s == 3


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.5, 30)), min_size=1, max_size=30))
def test_no_rate_is_ever_negative_while_offsets_rise(steps: list[tuple[int, float]]) -> None:
    rates, at_s, end = QueueRates(), 0.0, 0
    for more, elapsed_s in steps:
        end += more
        at_s += elapsed_s
        rates.note({REQUESTS: Position(committed=end, end=end)}, at_s=at_s)
        assert (rates.queue(ROUTER_QUEUE).leaving_per_s or 0.0) >= 0


def test_a_total_adds_what_is_known() -> None:
    parts = [Queue(lag_records=2, arriving_per_s=1, leaving_per_s=3), Queue(lag_records=5)]
    assert total(parts) == Queue(lag_records=7, arriving_per_s=1, leaving_per_s=3)
    assert total([Queue()]).leaving_per_s is None


def test_every_queue_of_every_version_is_asked_for() -> None:
    asked = subscriptions(NAMES, [IRIS])
    assert {part.topic for part in asked} == {
        "inferlane.requests",
        "inferlane.bulk",
        *(f"inferlane.iris.{version}.{lane}" for version in ("v1", "v2") for lane in ("requests", "bulk")),
        "inferlane.dead-letters",
    }
    assert len(set(asked)) == len(asked)


def judged(**signs: Any) -> tuple[Tone, str]:
    verdict = headline_of(Signs(**({"error_shares": {}} | signs)))
    return verdict.tone, verdict.title


@pytest.mark.parametrize(
    ("signs", "tone", "says"),
    [
        ({}, Tone.IDLE, "idle"),
        ({"finished_per_s": 12.0, "lag_records": 3}, Tone.GOOD, "All is well"),
        ({"api_error": "gone", "broker_error": "gone"}, Tone.BAD, "The API"),
        ({"broker_error": "gone"}, Tone.BAD, "The broker"),
        ({"without_workers": ("iris v2",), "lag_records": 1}, Tone.BAD, "no worker"),
        ({"restarting": ("router",)}, Tone.WARN, "started again"),
        ({"finished_per_s": 9.0, "error_share": 0.02, "error_shares": {"iris v1": 0.2}}, Tone.WARN, "2.0% of"),
        ({"finished_per_s": 9.0, "error_share": 0.5, "error_shares": {"iris v1": 0.5}}, Tone.BAD, "50.0% of"),
        ({"finished_per_s": 9.0, "error_share": 0.001, "error_shares": {"iris v1": 0.01}}, Tone.GOOD, "well"),
        ({"lag_records": 900}, Tone.BAD, "900 requests wait and none is finished"),
        ({"lag_records": 900, "finished_per_s": 10.0, "lag_records_before": 300}, Tone.WARN, "grows"),
        ({"lag_records": 900, "finished_per_s": 10.0, "lag_records_before": 1_300}, Tone.WARN, "worked off"),
        ({"lag_records": 900, "finished_per_s": 5_000.0, "lag_records_before": 0}, Tone.GOOD, "well"),
        ({"lag_records": 49, "finished_per_s": 0.2}, Tone.GOOD, "well"),
    ],
)
def test_the_verdict_names_the_worst_that_is_true(signs: dict[str, Any], tone: Tone, says: str) -> None:
    found, title = judged(**signs)
    assert found is tone
    assert says in title


def test_a_snapshot_puts_reports_lag_and_processes_together() -> None:
    rates, history = QueueRates(), History()
    rates.note(everywhere((IRIS,), committed=0, end=0), at_s=0)
    rates.note(everywhere((IRIS,), committed=10, end=25), at_s=2)
    process = ProcessRecord(
        name="router", pool="router", pid=1, create_time_s=0, state="waiting", restarts=2, port=1, ops_url="", log=""
    )
    seen = Sighting(
        at_s=1_000.0,
        models=(IRIS,),
        examples={"iris": [[1, 2, 3, 4]]},
        reports={
            ("iris", "v1"): report("v1", requests=300, error_rate=0.1),
            ("iris", "v2"): report("v2", requests=100),
        },
        failures={("iris", "v1"): {"model_error": 3, "deadline_exceeded": 27}},
        processes=(process,),
    )
    snapshot = build_snapshot(seen, rates=rates, history=history)

    (model,) = snapshot.models
    assert [(card.version, card.weight, card.queue.lag_records) for card in model.versions] == [
        ("v1", 0.9, 30),
        ("v2", 0.1, 30),
    ]
    assert model.example == [[1, 2, 3, 4]]
    assert (snapshot.flow.router.lag_records, snapshot.flow.workers.lag_records) == (30, 60)
    assert snapshot.flow.workers.leaving_per_s == pytest.approx(20)
    assert snapshot.flow.workers_alive == 2
    assert snapshot.flow.error_share == pytest.approx(0.075)
    assert [(failure.code, failure.count) for failure in snapshot.failures] == [
        ("deadline_exceeded", 27),
        ("model_error", 3),
    ]
    assert snapshot.verdict.title == "A process died and is started again"
    assert snapshot.point.versions["iris/v1"] == VersionPoint(10.0, 30, 1, 5.0)
    assert history.points == (snapshot.point,)
    # What goes over the wire holds every number: nothing in it is left for json to refuse.
    assert msgspec.json.decode(msgspec.json.encode(snapshot))["models"][0]["versions"][0]["report"]["requests"] == 300


def test_the_default_model_comes_first() -> None:
    other = ApiModel(name="digits", description="", default=False, versions=(version_info("v1", 1.0),))
    snapshot = build_snapshot(Sighting(at_s=1.0, models=(other, IRIS)), rates=QueueRates(), history=History())
    assert [model.name for model in snapshot.models] == ["iris", "digits"]
    assert list(snapshot.point.versions) == ["iris/v1", "iris/v2", "digits/v1"]


def test_before_anything_answered_a_snapshot_says_who_does_not() -> None:
    seen = Sighting(at_s=1.0, api=SourceState(error="nobody there"), broker=SourceState(error="nobody there either"))
    snapshot = build_snapshot(seen, rates=QueueRates(), history=History())
    assert (snapshot.verdict.tone, snapshot.models, snapshot.flow.error_share) == (Tone.BAD, (), None)
    assert snapshot.verdict.detail == "nobody there"


def test_requests_that_wait_with_no_worker_there_are_the_headline() -> None:
    rates = QueueRates()
    (own, _) = version_queue(NAMES, "iris", "v2")
    rates.note({own: Position(committed=0, end=5)}, at_s=0)
    seen = Sighting(at_s=1.0, models=(IRIS,), reports={("iris", "v2"): report("v2", workers=0)})
    snapshot = build_snapshot(seen, rates=rates, history=History())
    assert snapshot.verdict.detail == "Start workers of iris v2."


def point(at_s: float, lag: int = 0) -> Point:
    return Point(at_s=at_s, router_lag_records=lag, versions={"iris/v1": VersionPoint(1.0, lag, 1, None)})


def test_history_keeps_ten_minutes_and_knows_what_waited_before() -> None:
    history = History()
    assert history.lag_before(15) is None
    for second in range(0, 2_000, 10):
        history.add(point(float(second), lag=second))
    assert (history.points[0].at_s, history.points[-1].at_s) == (1_990 - KEPT_S, 1_990)
    assert history.lag_before(15) == 2 * 1_970


def letter_record(number: int, *, reason: str = "model_error") -> Any:
    headers = (("ce_id", f"id-{number}".encode()), ("ce_model", b"iris"), ("ce_modelversion", b"v1"))
    dead_lettered = dead_letter(
        FakeRecord(value=b"{}", headers=headers),
        Cause(reason=reason, detail="it broke\nat a line", attempts=2),
        topic="dead",
        limit_bytes=1_000,
    )
    return FakeRecord(
        value=dead_lettered.value, headers=tuple(dead_lettered.headers), offset=number, timestamp=1_000 * number
    )


def test_letters_are_counted_once_however_often_they_are_read() -> None:
    box = DeadLetterTally(load_settings().kafka, load_settings().stack.names, clock=FakeClock())
    box.add([letter_record(0), letter_record(1, reason="undecodable")])
    box.add([letter_record(1, reason="undecodable"), FakeRecord(value=b"no letter", offset=2), letter_record(3)])
    letters = asyncio.run(box.look(Position(committed=0, end=4)))
    assert letters.by_reason == {"model_error": 2, "undecodable": 1}
    assert (letters.kept, [letter.request_id for letter in letters.newest]) == (4, ["id-3", "id-1", "id-0"])
    assert letters.newest[0].detail == "it broke"


def test_letters_of_partitions_that_were_added_are_counted_too() -> None:
    box = DeadLetterTally(load_settings().kafka, load_settings().stack.names, clock=FakeClock())
    box.add([letter_record(0), letter_record(1), replace(letter_record(0), partition=1)])
    box.add([replace(letter_record(0), partition=1), replace(letter_record(1), partition=1)])
    assert asyncio.run(box.look(Position(committed=0, end=4))).by_reason == {"model_error": 4}


def test_the_page_reads_what_the_stream_sends() -> None:
    """Guards the names in types.ts: the page shows NaN for a field that nobody sends."""
    structs: dict[str, type[msgspec.Struct]] = {
        "Queue": Queue,
        "Percentiles": Percentiles,
        "Report": WindowReport,
        "VersionCard": VersionCard,
        "TensorInfo": ApiTensor,
        "ModelCard": ModelCard,
        "Letter": DeadLetterSummary,
        "Source": SourceState,
        "Point": Point,
        "Rollout": RolloutCard,
        "Snapshot": Snapshot,
    }
    types = (Path(live.__file__).parent / "web" / "src" / "types.ts").read_text()
    read = {
        name: set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE))
        for name, body in re.findall(r"^export interface (\w+) \{\n(.*?)^\}", types, re.MULTILINE | re.DOTALL)
    }
    sent = {name: {field.encode_name for field in msgspec.structs.fields(struct)} for name, struct in structs.items()}
    assert read.keys() == sent.keys()
    assert {name: fields - sent[name] for name, fields in read.items() if fields - sent[name]} == {}


SAME = {"host": "localhost:3000", "origin": "http://localhost:3000", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "changed", "says"),
    [
        ("GET", {}, None),
        ("GET", {"host": "127.0.0.1:3000"}, None),
        ("GET", {"host": "[::1]:3000"}, None),
        ("GET", {"host": "evil.example:3000"}, "names the host"),
        ("GET", {"host": ""}, "names the host"),
        ("GET", {"host": "[:::3000"}, "names the host"),
        ("POST", {}, None),
        ("POST", {"sec-fetch-site": "same-origin"}, None),
        ("POST", {"sec-fetch-site": "cross-site"}, "another site"),
        ("POST", {"sec-fetch-site": "same-site"}, "another site"),
        ("POST", {"origin": "http://localhost:8000"}, "another site"),
        ("POST", {"origin": "null"}, "another site"),
        ("POST", {"origin": None}, "does not say"),
        ("POST", {"content-type": "text/plain"}, "application/json"),
        ("DELETE", {"origin": "http://evil.example"}, "another site"),
    ],
)
def test_calls_of_other_sites_are_refused(method: str, changed: dict[str, str | None], says: str | None) -> None:
    headers = {name: value for name, value in (SAME | changed).items() if value is not None}
    reason = refusal(method, headers, loopback_only=True)
    assert (reason is None) if says is None else (reason is not None and says in reason)


def test_behind_a_proxy_any_host_may_be_named_but_no_other_site_may_write() -> None:
    assert refusal("GET", {"host": "dash.example"}, loopback_only=False) is None
    assert refusal("POST", SAME | {"host": "dash.example"}, loopback_only=False) is not None


async def test_every_answer_carries_the_policy() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    for host in (b"localhost", b"evil.example"):
        scope = {"type": "http", "method": "GET", "headers": [(b"host", host)]}
        await Guard(app, loopback_only=True)(scope, None, send)
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert [message["status"] for message in starts] == [200, 403]
    for message in starts:
        policy = dict(message["headers"])[b"content-security-policy"].decode()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_a_dashboard_that_the_network_reaches_must_be_asked_for() -> None:
    everywhere = DashboardSettings(host="0.0.0.0")
    refuse_open_network(ApiSettings(), DashboardSettings())
    refuse_open_network(ApiSettings(auth="off"), everywhere)
    with pytest.raises(ConfigurationError, match=r"INFERLANE_DASHBOARD_HOST=0\.0\.0\.0"):
        refuse_open_network(ApiSettings(), everywhere)


class Looking:
    """Counts how often it is asked; every snapshot is of the next second."""

    def __init__(self) -> None:
        self.looks = 0
        self.fails = False
        self.watched: list[bool] = []

    async def look(self, *, is_watched: bool) -> Snapshot:
        self.looks += 1
        self.watched.append(is_watched)
        if self.fails:
            raise ZeroDivisionError
        return build_snapshot(Sighting(at_s=float(self.looks)), rates=QueueRates(), history=History())


async def test_open_pages_share_one_look_and_a_failing_look_ends_nobody() -> None:
    looking = Looking()
    feed = SnapshotFeed(looking.look, lambda: (point(1.0),))
    feed.start()
    async with asyncio.timeout(20), aclosing(feed.events()) as one, aclosing(feed.events()) as two:
        for events in (one, two):
            first = await anext(events)
            assert first.startswith(b"retry: 1000\nevent: history\ndata: [{")
        looks = looking.looks
        event = await anext(one)
        assert event == await anext(two)
        assert event.startswith(b"event: snapshot\ndata: {")
        assert looking.looks <= looks + 1
        looking.fails = True
        while looking.looks < looks + 2:  # noqa: ASYNC110 - the feed tells nobody of a look that failed
            await asyncio.sleep(0.05)
        assert feed.is_running
        looking.fails = False
        assert (await anext(one)).startswith(b"event: snapshot")
        await feed.close()
        assert [event async for event in two] == []


async def test_a_look_knows_whether_a_page_is_open() -> None:
    looking = Looking()
    feed = SnapshotFeed(looking.look, tuple)
    feed.start()
    async with asyncio.timeout(20):
        while not looking.watched:  # noqa: ASYNC110 - the feed tells nobody of a look
            await asyncio.sleep(0.01)
        async with aclosing(feed.events()) as page:
            await anext(page)
            await anext(page)
        await feed.close()
    assert looking.watched[:2] == [False, True]


class AskedApi:
    """The API of a deployment with one version; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def models(self) -> ApiModelList:
        self.asked.append("models")
        return ApiModelList(models=(msgspec.structs.replace(IRIS, versions=(version_info("v1", 1.0),)),))

    async def rollouts(self) -> tuple[()]:
        return ()

    async def report(self, _model: str, version: str, *, window_s: float) -> WindowReport:
        self.asked.append(f"{window_s:g} s")
        return report(version)

    async def examples(self) -> tuple[Example, ...]:
        self.asked.append("examples")
        return (Example(instances=[[1.0]]),)


class SilentBroker:
    """Does not answer."""

    async def read(self, _subscriptions: object) -> None:
        raise UnavailableError("no broker")


async def test_what_only_an_open_page_shows_is_asked_once_one_is_open(tmp_path: Path) -> None:
    """Guards `is_watched`: without it an idle API makes its whole OpenAPI document, 13 MiB, for nobody."""
    api = AskedApi()
    parts = Parts(api=api, backlog=SilentBroker(), letters=None, run_file=RunFile(tmp_path), names=NAMES)  # type: ignore[arg-type]
    observer = DeploymentObserver(parts, clock=FakeClock())
    unwatched = await observer.look(is_watched=False)
    assert api.asked == ["models", "60 s"]
    api.asked.clear()
    watched = await observer.look(is_watched=True)
    assert api.asked == ["models", "examples", "60 s", "300 s"]
    assert [model.example for model in unwatched.models] == [None]
    assert [model.example for model in watched.models] == [[[1.0]]]


async def test_more_pages_than_the_limit_are_told_so() -> None:
    feed = SnapshotFeed(Looking().look, tuple)
    pages = [feed.events() for _ in range(100)]
    for page in pages:
        feed.refuse_if_full()
        await anext(page)
    with pytest.raises(OverloadedError, match="the limit is 100"):
        feed.refuse_if_full()
    await pages[0].aclose()
    feed.refuse_if_full()
    for page in pages:
        await page.aclose()
