"""Slots, reports and the windows of the router: every summary counts once, in any order."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.outcomes import LatencySketches, OutcomeSummary, Sketch
from inferlane.contracts.windows import Slot, WindowReport, add, decode_slot, encode_slot, report
from inferlane.errors import DecodeError
from router.version_windows import SummaryDecision, VersionWindows

SLOT_S = 5
NOW_S = 1_000_003.0


def make_summary(
    sequence: int, *, to_s: float = NOW_S, worker_id: str = "w", ok: int = 1, version: str = "v1"
) -> OutcomeSummary:
    sketch = Sketch()
    sketch.update(np.linspace(0.01, 0.02, ok))
    latency = sketch.to_bytes()
    return OutcomeSummary(
        model="iris",
        version=version,
        worker_id=worker_id,
        sequence=sequence,
        from_s=to_s - 1,
        to_s=to_s,
        outcomes={"SUCCEEDED": ok, "FAILED": 1},
        failures={"model_error": 1},
        batches=1,
        rows=ok,
        latency=LatencySketches(queue_wait=latency, inference=latency, total=latency),
        classes={"setosa": ok},
        cpu_s=0.5,
        memory_bytes=100 + sequence,
    )


def make_windows(window_s: int = 60) -> VersionWindows:
    return VersionWindows(slot_s=SLOT_S, window_s=window_s)


def report_of(slots: Sequence[Slot], *, window_s: float = 60, now_s: float = NOW_S) -> WindowReport:
    return report(slots, model="iris", version="v1", window_s=window_s, now_s=now_s, slot_s=SLOT_S)


def gather(summaries: Sequence[OutcomeSummary]) -> list[Slot]:
    windows = make_windows()
    for summary in summaries:
        windows.apply(summary, now_s=NOW_S)
    return windows.changed(1_000)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[OutcomeSummary], list[OutcomeSummary]]:
    sent = [
        make_summary(sequence, worker_id=worker, to_s=NOW_S - draw(st.integers(0, 55)), ok=draw(st.integers(1, 40)))
        for worker in ("a", "b", "c")
        for sequence in range(draw(st.integers(0, 5)))
    ]
    again = draw(st.lists(st.sampled_from(sent), max_size=10)) if sent else []
    return sent, draw(st.permutations([*sent, *again]))


def assert_same(one: WindowReport, other: WindowReport) -> None:
    exact = ("age_s", "requests", "rate_per_s", "error_rate", "outcomes", "failures", "batches", "rows")
    for name in (*exact, "prediction_distribution"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.resources.workers == other.resources.workers
    assert one.resources.memory_bytes == other.resources.memory_bytes
    assert one.resources.cpu_cores == pytest.approx(other.resources.cpu_cores)
    for name in ("p50", "p95", "p99"):
        mine, theirs = getattr(one.latency_ms.total, name), getattr(other.latency_ms.total, name)
        assert mine == (None if theirs is None else pytest.approx(theirs, rel=0.02))


@given(deliveries())
def test_any_order_and_repetition_of_summaries_gives_the_same_report(
    sent_and_delivered: tuple[list[OutcomeSummary], list[OutcomeSummary]],
) -> None:
    sent, delivered = sent_and_delivered
    assert_same(report_of(gather(delivered)), report_of(gather(sent)))


@given(deliveries())
def test_a_report_counts_every_summary_once(
    sent_and_delivered: tuple[list[OutcomeSummary], list[OutcomeSummary]],
) -> None:
    sent, delivered = sent_and_delivered
    found = report_of(gather(delivered))
    assert found.requests == sum(sum(summary.outcomes.values()) for summary in sent)
    assert found.rows == sum(summary.rows for summary in sent)


def test_a_summary_that_is_in_a_slot_leaves_it_as_it_is() -> None:
    slot = add(Slot(model="iris", version="v1", index=1), make_summary(1))
    assert add(slot, make_summary(1)) is slot


def test_decoding_an_encoded_slot_gives_it_back() -> None:
    slot = add(Slot(model="iris", version="v1", index=1), make_summary(1))
    assert decode_slot(encode_slot(slot)) == slot


@given(st.binary())
@example(b"[" * 5_000)
@example(b'{"x":' + b"[" * 5_000)
def test_a_slot_of_arbitrary_bytes_raises_only_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_slot(raw)


def test_a_report_of_nothing_has_no_age_no_error_rate_and_no_percentiles() -> None:
    empty = report_of([])
    assert (empty.requests, empty.age_s, empty.error_rate, empty.latency_ms.total.p99) == (0, None, None, None)
    assert empty.outcomes == {"SUCCEEDED": 0, "FAILED": 0, "EXPIRED": 0}


def test_the_error_rate_is_failed_and_expired_over_all() -> None:
    assert report_of(gather([make_summary(1, ok=3)])).error_rate == 0.25


def test_rates_divide_by_the_time_since_the_oldest_slot_began() -> None:
    found = report_of(gather([make_summary(1, ok=9)]), window_s=10)
    covered_s = NOW_S - 999_990
    assert found.rate_per_s == 10 / covered_s
    assert found.resources.cpu_cores == 0.5 / covered_s


def test_memory_is_the_newest_of_each_worker_that_is_still_heard_of() -> None:
    found = report_of(
        gather(
            [
                make_summary(1, worker_id="a", to_s=NOW_S - 20),
                make_summary(2, worker_id="a", to_s=NOW_S - 1),
                make_summary(5, worker_id="b", to_s=NOW_S - 7),
                make_summary(9, worker_id="gone", to_s=NOW_S - 40),
            ]
        )
    )
    assert (found.resources.workers, found.resources.memory_bytes) == (2, 102 + 105)


def test_a_summary_older_than_the_window_is_late() -> None:
    assert make_windows().apply(make_summary(1, to_s=NOW_S - 66), now_s=NOW_S) is SummaryDecision.LATE


def test_a_summary_of_a_clock_far_ahead_is_refused() -> None:
    assert make_windows().apply(make_summary(1, to_s=NOW_S + 61), now_s=NOW_S) is SummaryDecision.AHEAD


def test_versions_past_the_bound_are_refused_and_known_ones_go_on() -> None:
    windows = make_windows()
    verdicts = [windows.apply(make_summary(1, version=str(n)), now_s=NOW_S) for n in range(300)]
    assert verdicts.count(SummaryDecision.ADDED) == 256
    assert windows.apply(make_summary(2, version="0", to_s=NOW_S - 5), now_s=NOW_S) is SummaryDecision.ADDED


def test_slots_that_no_window_reaches_are_dropped() -> None:
    windows = make_windows()
    windows.apply(make_summary(1), now_s=NOW_S)
    windows.drop_old(now_s=NOW_S + 70)
    windows.mark_all_changed()
    assert windows.changed(10) == []


def test_a_published_slot_is_not_published_again() -> None:
    windows = make_windows()
    windows.apply(make_summary(1), now_s=NOW_S)
    windows.mark_published(windows.changed(10))
    assert windows.changed(10) == []


def test_a_slot_that_changes_while_it_is_published_stays_changed() -> None:
    windows = make_windows()
    windows.apply(make_summary(1), now_s=NOW_S)
    under_way = windows.changed(10)
    windows.apply(make_summary(2), now_s=NOW_S)
    windows.mark_published(under_way)
    assert [slot.batches for slot in windows.changed(10)] == [2]


def test_the_newest_slots_are_published_first() -> None:
    windows = make_windows()
    for sequence, age_s in enumerate((20, 0, 40)):
        windows.apply(make_summary(sequence, to_s=NOW_S - age_s), now_s=NOW_S)
    indices = [slot.index for slot in windows.changed(2)]
    assert indices == [200_000, 199_996]
