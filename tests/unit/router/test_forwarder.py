"""The forwarder on fakes: which records are forwarded, which wait, and which get a reply."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from inferlane.contracts.catalog_entry import encode_entry
from inferlane.contracts.kafka_record import OutRecord, check_size
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import ROLLOUT, read_headers
from inferlane.contracts.traffic_split import Served, Shadow, Split
from inferlane.errors import InferlaneError, PayloadTooLargeError, TopicMissingError
from inferlane.runtime.catalog_table import CatalogTable
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.delivery import Reply
from inferlane.runtime.kafka.consumer import FetchedBatch
from inferlane.runtime.retry import Retrier
from inferlane.runtime.split_table import SplitTable
from models.live_catalog import AnyCatalog, LiveCatalog
from router.forwarder import CatchUp, Forwarder
from router.request_lanes import router_lanes
from router.routed_records import RoutedRecord
from router.router_telemetry import ShadowGate
from router.routing import Splits
from tests.support.fakes.entries import make_entry
from tests.support.fakes.records import FakeRecord, make_catalog

SETTINGS = load_settings()
LIMIT_BYTES = 1_000


class FakeSender:
    """Topics that are missing or do not respond; all have the size limit."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.silent: dict[str, asyncio.Event] = {}
        self.sent: list[OutRecord] = []

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        return [await self._send(record) for record in records]

    async def _send(self, record: OutRecord) -> InferlaneError | None:
        if record.topic in self.silent:
            await self.silent[record.topic].wait()
        if record.topic in self.gone:
            return TopicMissingError(f"the broker has no topic {record.topic}")
        try:
            check_size(record, LIMIT_BYTES)
        except PayloadTooLargeError as error:
            return error
        self.sent.append(record)
        return None


class FakeDelivery:
    def __init__(self) -> None:
        self.replies: list[Reply] = []

    async def deliver(self, replies: Sequence[Reply]) -> None:
        self.replies += replies


class FatSpan:
    def put_into(self, headers: Any) -> Any:
        return [*headers, ("traceparent", b"t" * 300)]

    def end(self, **_: Any) -> None:
        pass


class FatTracing:
    """Adds headers to what is forwarded."""

    def begin(self, *_: Any, **__: Any) -> FatSpan:
        return FatSpan()


def make_forwarder(  # noqa: PLR0913 - what a test may want of its own
    sender: FakeSender,
    delivery: FakeDelivery,
    *,
    tracing: Any = None,
    splits: Splits | None = None,
    catalog: AnyCatalog | None = None,
    catch_up: CatchUp | None = None,
    shadow_gate: ShadowGate | None = None,
    settings: Settings = SETTINGS,
) -> Forwarder:
    return Forwarder(
        settings.stack.names,
        settings.webhooks,
        catalog=catalog or make_catalog("v1", "v2"),
        catch_up=catch_up,
        splits=splits or SplitTable(),
        producer=sender,
        delivery=delivery,  # type: ignore[arg-type]  # a fake of the same shape
        retrier=Retrier(),
        shadow_gate=shadow_gate,
        tracing=tracing,
    )


def take(*records: FakeRecord) -> FetchedBatch:
    return FetchedBatch(records, ticket=None)  # type: ignore[arg-type]  # nobody finishes it here


def request(request_id: bytes, version: bytes, value: bytes = b"{}") -> FakeRecord:
    return FakeRecord(value=value, headers=(("ce_id", request_id), ("ce_modelversion", version)))


def forwarding_s() -> float:
    """The time of all batches of clients that were forwarded."""
    return REGISTRY.get_sample_value("inferlane_router_forward_seconds_sum", {"lane": Lane.REQUESTS.value}) or 0.0


def topic(version: str) -> str:
    return SETTINGS.stack.names.work_topic("iris", version, Lane.REQUESTS)


async def test_a_request_whose_topic_is_gone_is_answered_and_the_others_go_on() -> None:
    sender, delivery = FakeSender(), FakeDelivery()
    sender.gone.add(topic("v2"))
    forwarder = make_forwarder(sender, delivery)
    lost, kept = request(b"lost", b"v2"), request(b"kept", b"v1")
    assert await forwarder.forward(take(lost, kept), Lane.REQUESTS) is None
    assert [record.topic for record in sender.sent] == [topic("v1")]
    (answer,) = delivery.replies
    assert answer.result.error_code == "topic_missing"
    assert topic("v2") in (answer.result.error_detail or "")
    assert answer.dead is lost


@pytest.mark.parametrize("empty", [b"", None])
async def test_empty_headers_get_their_defaults_and_the_worker_can_read_them(empty: Any) -> None:
    """Guards `_DEFAULTED`: an empty header beside its default is one that the worker refuses as repeated."""
    sender, delivery = FakeSender(), FakeDelivery()
    bare = FakeRecord(value=b"{}")
    headers = (("ce_id", empty), ("ce_time", empty), ("ce_source", empty), ("ce_modelversion", b"v1"))
    assert await make_forwarder(sender, delivery).forward(take(replace(bare, headers=headers)), Lane.REQUESTS) is None
    (sent,) = sender.sent
    read = read_headers(FakeRecord(topic=sent.topic, offset=99, value=sent.value, headers=tuple(sent.headers)))
    assert (read.request_id, read.accepted_s) == (read_headers(bare).request_id, read_headers(bare).accepted_s)


async def test_a_clock_that_is_set_makes_no_batch_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `note_batch`: a step of the clock was counted as the time of whatever batch was in work."""
    sender, delivery = FakeSender(), FakeDelivery()
    forwarder = make_forwarder(sender, delivery)
    before_s = forwarding_s()
    set_by_s = itertools.count(0, 3_600)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + next(set_by_s))
    await forwarder.forward(take(request(b"1", b"v1")), Lane.REQUESTS)
    assert 0 <= forwarding_s() - before_s < 60


@pytest.mark.parametrize("proof", [(), (("ce_proof", b""),), (("ce_proof", b"zz"),)])
async def test_the_position_of_a_foreign_record_is_that_of_its_produce_whatever_proof_it_claims(
    proof: tuple[tuple[str, bytes], ...],
) -> None:
    sender, delivery = FakeSender(), FakeDelivery()
    foreign = FakeRecord(value=b"{}", headers=(("ce_id", b"mine"), ("ce_modelversion", b"v1"), *proof))
    assert await make_forwarder(sender, delivery).forward(take(foreign), Lane.REQUESTS) is None
    (sent,) = sender.sent
    read = read_headers(FakeRecord(topic=sent.topic, offset=99, value=sent.value, headers=tuple(sent.headers)))
    assert read.position == "inferlane.requests-0-7"


async def test_a_topic_that_does_not_answer_holds_no_take_of_another() -> None:
    """Guards the awaitable that `forward` returns; without it every model waits for this one."""
    sender, delivery = FakeSender(), FakeDelivery()
    sender.silent[topic("v2")] = asyncio.Event()
    forwarder = make_forwarder(sender, delivery)
    async with asyncio.timeout(30):
        rests = [
            await forwarder.forward(take(request(b"2%d" % n, b"v2"), request(b"1%d" % n, b"v1")), Lane.REQUESTS)
            for n in range(3)
        ]
        assert [record.topic for record in sender.sent] == [topic("v1")] * 3
        waiting = [asyncio.ensure_future(rest) for rest in rests if rest is not None]
        assert len(waiting) == 3
        sender.silent[topic("v2")].set()
        await asyncio.gather(*waiting)
    ids = [dict(record.headers)["ce_id"] for record in sender.sent if record.topic == topic("v2")]
    assert ids == [b"20", b"21", b"22"]
    assert delivery.replies == []


async def test_a_record_that_tracing_makes_too_large_is_answered() -> None:
    """Without the check, the router ends with this record, and so does the next router that fetches it."""
    sender, delivery = FakeSender(), FakeDelivery()
    bare = request(b"r", b"v1", b"x" * 500)
    assert await make_forwarder(sender, delivery).forward(take(bare), Lane.REQUESTS) is None
    assert (len(sender.sent), delivery.replies) == (1, [])
    traced = make_forwarder(sender, delivery, tracing=FatTracing())
    assert await traced.forward(take(bare), Lane.REQUESTS) is None
    (answer,) = delivery.replies
    assert (answer.result.error_code, answer.dead) == ("payload_too_large", bare)
    assert len(sender.sent) == 1


async def test_a_version_that_this_router_does_not_know_goes_to_its_workers_while_they_are_there() -> None:
    """Replicas have different catalogs during a change: a record must not fail because of the router that it met."""
    sender, delivery = FakeSender(), FakeDelivery()
    served_models = {"new": Served("v2", {"v2", "v3"}), "iris": Served("v1", {"v1", "v9"})}
    forwarder = Forwarder(
        SETTINGS.stack.names,
        SETTINGS.webhooks,
        catalog=make_catalog("v1", "v2"),
        splits=SplitTable(),
        served_models=served_models,
        producer=sender,
        delivery=delivery,  # type: ignore[arg-type]  # a fake of the same shape
        retrier=Retrier(),
    )

    def asked(request_id: bytes, model: bytes, version: bytes | None = None) -> FakeRecord:
        pin = (("ce_modelversion", version),) if version else ()
        return FakeRecord(value=b"{}", headers=(("ce_id", request_id), ("ce_model", model), *pin))

    records = (
        asked(b"default", b"new"),
        asked(b"pinned", b"new", b"v3"),
        asked(b"known", b"iris", b"v9"),
        asked(b"asleep", b"new", b"v4"),
        asked(b"never", b"nobody"),
    )
    assert await forwarder.forward(take(*records), Lane.REQUESTS) is None
    sent = {dict(out.headers)["ce_id"]: out.topic for out in sender.sent}
    names = SETTINGS.stack.names
    assert sent == {
        b"default": names.work_topic("new", "v2", Lane.REQUESTS),
        b"pinned": names.work_topic("new", "v3", Lane.REQUESTS),
        b"known": names.work_topic("iris", "v9", Lane.REQUESTS),
    }
    assert {answer.result.error_code for answer in delivery.replies} == {"unknown_model"}
    assert len(delivery.replies) == 2


async def test_a_record_that_a_rollout_routed_says_so_whatever_its_producer_wrote() -> None:
    sender, delivery, splits = FakeSender(), FakeDelivery(), SplitTable()
    forwarder = Forwarder(
        SETTINGS.stack.names,
        SETTINGS.webhooks,
        catalog=make_catalog("v1", "v2"),
        splits=splits,
        producer=sender,
        delivery=delivery,  # type: ignore[arg-type]  # a fake of the same shape
        retrier=Retrier(),
    )
    claiming = FakeRecord(value=b"{}", headers=(("ce_id", b"a"), (ROLLOUT, b"mine")))
    await forwarder.forward(take(claiming), Lane.REQUESTS)
    await splits.apply(0, b"iris", b'{"model":"iris","weights":{"v1":1.0},"rollout":"iris-1","generation":1}')
    await forwarder.forward(take(claiming), Lane.REQUESTS)
    marks = [[value for name, value in record.headers if name == ROLLOUT] for record in sender.sent]
    assert marks == [[], [b"iris-1"]]


def test_the_fallback_of_the_split_is_told_to_the_version_under_trial_alone() -> None:
    """Guards `fallback_of` and `_ROUTER_HEADERS`: without the first no failure is shielded; without the second a
    producer decides which version answers."""
    splits = {"iris": Split(model="iris", weights={"v1": 0.5, "v2": 0.5}, fallback="v1")}
    forwarder = make_forwarder(FakeSender(), FakeDelivery(), splits=splits)
    told: dict[str, set[bytes | None]] = {}
    for number in range(100):
        forged = (("ce_id", b"%d" % number), ("ce_fallback", b"v9"), ("ce_fallbackfrom", b"v8"))
        routed = forwarder.decide(FakeRecord(headers=forged), Lane.REQUESTS)
        assert isinstance(routed, RoutedRecord)
        headers = dict(routed.out.headers)
        assert "ce_fallbackfrom" not in headers
        told.setdefault(routed.chosen.version, set()).add(headers.get("ce_fallback"))
    assert told == {"v1": {None}, "v2": {b"v1"}}
    pinned = forwarder.decide(request(b"p", b"v2"), Lane.REQUESTS)
    assert isinstance(pinned, RoutedRecord)
    assert "ce_fallback" not in dict(pinned.out.headers)


async def test_a_version_that_is_in_the_topic_but_not_here_yet_is_waited_for_and_routed() -> None:
    """Without the second look, a request fails that an API accepted which read the topic a moment earlier."""
    sender, delivery, table = FakeSender(), FakeDelivery(), CatalogTable()
    entries = iter([make_entry("iris", "v3")])

    async def catch_up() -> None:
        for entry in entries:
            await table.apply(0, entry.key.encode(), encode_entry(entry))

    forwarder = make_forwarder(sender, delivery, catalog=LiveCatalog(make_catalog("v1"), table), catch_up=catch_up)
    records = [request(b"1", b"v1"), request(b"2", b"v3"), request(b"3", b"v1")]
    assert await forwarder.forward(take(*records), Lane.REQUESTS) is None
    assert [(record.topic, dict(record.headers)["ce_id"]) for record in sender.sent] == [
        (topic("v1"), b"1"),
        (topic("v1"), b"3"),
        (topic("v3"), b"2"),
    ]
    assert delivery.replies == []
    assert await forwarder.forward(take(request(b"4", b"v9")), Lane.REQUESTS) is None
    assert [reply.result.error_code for reply in delivery.replies] == ["unknown_model"]


async def test_a_batch_does_not_overtake_one_that_waits_for_the_catalogue() -> None:
    """Guards `_deciding`: two batches are in work at once, and a record of a key must not pass an earlier one."""
    sender, told = FakeSender(), asyncio.Event()

    async def catch_up() -> None:
        await told.wait()

    forwarder = make_forwarder(sender, FakeDelivery(), catch_up=catch_up)
    async with asyncio.TaskGroup() as batches:
        batches.create_task(forwarder.forward(take(request(b"1", b"v1"), request(b"2", b"v9")), Lane.REQUESTS))
        batches.create_task(forwarder.forward(take(request(b"3", b"v1")), Lane.REQUESTS))
        for _ in range(10):
            await asyncio.sleep(0)
        assert sender.sent == []
        told.set()
    assert [dict(record.headers)["ce_id"] for record in sender.sent] == [b"1", b"3"]


def test_a_copy_is_asked_for_by_the_router_alone_and_not_of_a_version_that_is_behind() -> None:
    """Guards `ShadowGate` and `_ROUTER_HEADERS`: without the first, copies queue up before a slow version; without
    the second, a producer has its record taken for a copy and gets no result."""
    splits = {"iris": Split(model="iris", weights={"v1": 1.0}, shadow=Shadow(version="v2", share=1.0))}
    gate = ShadowGate()
    forwarder = make_forwarder(FakeSender(), FakeDelivery(), splits=splits, shadow_gate=gate)

    def asked(number: int) -> dict[str, bytes]:
        forged = (("ce_id", b"%d" % number), ("ce_shadow", b"v9"), ("ce_shadowof", b"v1"), ("ce_shadowrun", b"r"))
        routed = forwarder.decide(FakeRecord(headers=forged), Lane.REQUESTS)
        assert isinstance(routed, RoutedRecord)
        return {name: value for name, value in routed.out.headers if name.startswith("ce_shadow")}

    assert asked(1) == {"ce_shadow": b"v2"}
    gate.note_lag("iris", "v2", 4_999)
    assert [asked(2), asked(3)] == [{"ce_shadow": b"v2"}, {}]
    gate.note_lag("iris", "v2", 0)
    assert asked(4) == {"ce_shadow": b"v2"}


def test_a_record_with_a_callback_url_is_refused_where_no_callbacks_are_sent() -> None:
    record = FakeRecord(value=b"{}", headers=(("ce_id", b"r"), ("ce_callbackurl", b"https://example.com/hook")))
    refused = make_forwarder(FakeSender(), FakeDelivery()).decide(record, Lane.BULK)
    assert isinstance(refused, Reply)
    assert (refused.result.error_code, refused.callback_url, refused.dead) == ("callback_refused", None, record)
    sending = make_forwarder(FakeSender(), FakeDelivery(), settings=load_settings(webhooks=True))
    routed = sending.decide(record, Lane.BULK)
    assert isinstance(routed, RoutedRecord)
    assert ("ce_callbackurl", b"https://example.com/hook") in routed.out.headers


async def test_the_router_takes_few_bulk_records_at_once_and_many_of_clients() -> None:
    """Guards the lane's part in `router_lanes`: a client's request waits for each step of a bulk batch."""
    forwarder = make_forwarder(FakeSender(), FakeDelivery())
    lanes = router_lanes(SETTINGS.kafka, SETTINGS.stack.names, forwarder, Retrier())
    for options in lanes._lanes.values():
        options.consumer.left = 10_000  # type: ignore[attr-defined]  # a `LaneConsumer`
    most = {lane: options.max_records() for lane, options in lanes._lanes.items()}
    assert most == {Lane.REQUESTS: 2_000, Lane.BULK: 256}
