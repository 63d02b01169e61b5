"""The summary contract, its sketches, and the recorder that fills it."""

from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.outcomes import (
    TERMINAL,
    LatencySketches,
    OutcomeSummary,
    Sketch,
    decode_summary,
    encode_summary,
    merge_sketches,
    quantiles,
)
from inferlane.contracts.results import Status
from inferlane.errors import DecodeError
from tests.support.fakes.clock import FakeClock
from workers.outcome_summaries import OutcomeRecorder, Usage

EVERY_RANK = [0.5, 0.95, 0.99]


def sketch_of(values: np.ndarray) -> bytes:
    sketch = Sketch()
    sketch.update(values)
    return sketch.to_bytes()


@pytest.mark.parametrize(("batches", "size"), [(200, 1), (3, 2_000)])
def test_a_sketch_of_many_batches_is_one_of_all_their_values(batches: int, size: int) -> None:
    values = np.random.default_rng(1).random(batches * size)
    sketch = Sketch()
    for part in np.split(values, batches):
        sketch.update(part)
    assert quantiles(sketch.to_bytes(), [0.0, 1.0]) == [values.min(), values.max()]
    assert quantiles(sketch.to_bytes(), [0.5]) == pytest.approx(np.quantile(values, [0.5]), abs=0.02)


sketches = st.lists(st.floats(0, 100), max_size=30).map(lambda values: sketch_of(np.array(values)))
counts = st.integers(0, 2**48)
amounts = st.floats(0, 1e9)
names = st.text(min_size=1, max_size=20)
summaries = st.builds(
    OutcomeSummary,
    model=names,
    version=names,
    worker_id=names,
    sequence=counts,
    from_s=amounts,
    to_s=amounts,
    outcomes=st.dictionaries(st.sampled_from(sorted(TERMINAL)), counts),
    failures=st.dictionaries(st.text(), counts, max_size=3),
    batches=counts,
    rows=counts,
    latency=st.builds(LatencySketches, queue_wait=sketches, inference=sketches, total=sketches),
    classes=st.dictionaries(st.text(), counts, max_size=3),
    values=sketches,
    cpu_s=amounts,
    memory_bytes=counts,
)


class ScriptedUsage:
    def __init__(self) -> None:
        self.usage = Usage(cpu_s=5.0, memory_bytes=1_000)

    def __call__(self) -> Usage:
        return self.usage


def make_recorder(clock: FakeClock, usage: ScriptedUsage | None = None) -> OutcomeRecorder:
    return OutcomeRecorder(
        model="iris",
        version="v1",
        worker_id="w",
        clock=clock,
        classes=("setosa", "versicolor"),
        usage=usage or ScriptedUsage(),
    )


def observe(recorder: OutcomeRecorder, labels: list[int], total_s: float = 0.2) -> None:
    n = len(labels)
    recorder.observe_batch(
        statuses={Status.SUCCEEDED: n},
        rows=n,
        queue_wait_s=np.full(n, 0.1),
        inference_s=np.full(n, 0.05),
        total_s=np.full(n, total_s),
        labels=np.array(labels),
    )


@given(summaries)
def test_decoding_an_encoded_summary_gives_it_back(summary: OutcomeSummary) -> None:
    assert decode_summary(encode_summary(summary)) == summary


@given(st.binary())
def test_arbitrary_bytes_raise_only_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_summary(raw)


@given(summaries, st.data())
def test_a_damaged_summary_raises_only_decode_error(summary: OutcomeSummary, data: st.DataObject) -> None:
    raw = bytearray(encode_summary(summary))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        decode_summary(bytes(raw))


@given(st.binary(min_size=1, max_size=200))
def test_a_sketch_of_arbitrary_bytes_raises_only_decode_error(raw: bytes) -> None:
    with suppress(DecodeError):
        merge_sketches([raw, sketch_of(np.array([1.0]))])


def test_a_status_that_is_not_terminal_is_refused() -> None:
    raw = msgspec.json.encode(
        {"model": "m", "version": "v", "worker_id": "w", "sequence": 1, "from_s": 0, "to_s": 1}
        | {"outcomes": {"QUEUED": 1}}
    )
    with pytest.raises(DecodeError, match="QUEUED"):
        decode_summary(raw)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DecodeError, match="finite"):
        quantiles(sketch_of(np.array([1.0, np.inf])), EVERY_RANK)


def test_percentiles_come_from_the_union_of_skewed_workers_not_from_their_average() -> None:
    rng = np.random.default_rng(7)
    fast = rng.lognormal(mean=-5, sigma=0.3, size=98_000)
    slow = rng.lognormal(mean=0, sigma=0.3, size=2_000)
    merged = quantiles(merge_sketches([sketch_of(fast), sketch_of(slow)]), EVERY_RANK)
    assert merged is not None
    ranks = np.searchsorted(np.sort(np.concatenate([fast, slow])), merged) / 100_000
    assert ranks[0] == pytest.approx(0.5, abs=0.02)
    assert ranks[1:] == pytest.approx(EVERY_RANK[1:], abs=0.004)
    averaged_p95 = (np.quantile(fast, 0.95) + np.quantile(slow, 0.95)) / 2
    assert averaged_p95 > 10 * merged[1]


def test_batches_are_added_up_until_a_summary_is_taken() -> None:
    clock = FakeClock()
    recorder = make_recorder(clock)
    observe(recorder, [0, 0, 1])
    recorder.observe_batch(
        statuses={Status.FAILED: 1, Status.EXPIRED: 2},
        rows=0,
        queue_wait_s=np.array([]),
        inference_s=np.array([]),
        total_s=np.array([]),
        failures={"model_error": 1, "deadline_exceeded": 2},
    )
    clock.advance(1)
    summary = recorder.take_summary()
    assert summary is not None
    assert summary.outcomes == {"SUCCEEDED": 3, "FAILED": 1, "EXPIRED": 2}
    assert summary.failures == {"model_error": 1, "deadline_exceeded": 2}
    assert (summary.batches, summary.rows) == (2, 3)
    assert summary.classes == {"setosa": 2, "versicolor": 1}
    assert quantiles(summary.latency.total, [0.5]) == [0.2]
    assert summary.to_s - summary.from_s == 1
    assert decode_summary(encode_summary(summary)) == summary


def test_what_one_summary_says_the_next_does_not() -> None:
    recorder = make_recorder(FakeClock())
    observe(recorder, [0])
    first = recorder.take_summary()
    observe(recorder, [1, 1])
    second = recorder.take_summary()
    assert first is not None
    assert second is not None
    assert (first.rows, second.rows) == (1, 2)
    assert second.sequence == first.sequence + 1


def test_a_class_out_of_range_is_counted_as_other() -> None:
    recorder = make_recorder(FakeClock())
    observe(recorder, [0, -3, 2, 10**12])
    summary = recorder.take_summary()
    assert summary is not None
    assert summary.classes == {"setosa": 1, "other": 3}


def test_predictions_of_a_regression_become_a_sketch_without_nan() -> None:
    recorder = make_recorder(FakeClock())
    one = np.array([0.1])
    recorder.observe_batch(
        statuses={Status.SUCCEEDED: 1},
        rows=3,
        queue_wait_s=one,
        inference_s=one,
        total_s=one,
        values=np.array([[1.0], [np.nan], [3.0]]),
    )
    summary = recorder.take_summary()
    assert summary is not None
    assert quantiles(summary.values, [0.0, 1.0]) == [1.0, 3.0]


def test_an_idle_worker_says_now_and_then_that_it_is_there() -> None:
    clock, usage = FakeClock(), ScriptedUsage()
    recorder = make_recorder(clock, usage)
    assert recorder.take_summary() is not None
    clock.advance(1)
    assert recorder.take_summary() is None
    usage.usage = Usage(cpu_s=5.25, memory_bytes=2_000)
    clock.advance(10)
    heartbeat = recorder.take_summary()
    assert heartbeat is not None
    assert (heartbeat.cpu_s, heartbeat.memory_bytes, heartbeat.batches) == (0.25, 2_000, 0)
