"""What a worker reports of a batch: to Prometheus, to the outcome summaries and to the log."""

import dataclasses

import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ModelError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Reply
from models.catalog import ModelVersion
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord, make_version
from workers.batch_telemetry import BatchTelemetry
from workers.batching import Batch, BatchRun, InferredRequest, RunTimes
from workers.failure_limit import FailureLimit
from workers.outcome_summaries import OutcomeRecorder

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def make_telemetry(version: ModelVersion) -> tuple[BatchTelemetry, OutcomeRecorder]:
    clock = FakeClock()
    names = {"model": version.model, "version": version.version}
    recorder = OutcomeRecorder(**names, worker_id="w", clock=clock, classes=version.classes)
    return BatchTelemetry(version, recorder, FailureLimit(load_settings().worker, **names, clock=clock)), recorder


def sample(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


def succeeded(request_id: str, *, accepted_s: float, rows: int = 1) -> Reply:
    result = Result(
        request_id=request_id,
        status=Status.SUCCEEDED,
        model="iris",
        version="v1",
        accepted_s=accepted_s,
        finished_s=13.0,
        queue_wait_s=12.0 - accepted_s,
        inference_s=1.0,
        rows=rows,
    )
    return Reply(result=result, lane=Lane.REQUESTS, reply_to=None, batch_id=None, to_topic=False)


def inferred(**outputs: np.ndarray) -> InferredRequest:
    return InferredRequest(None, outputs)  # type: ignore[arg-type]  # nothing here looks at the request


def test_the_time_of_a_batch_is_told_hop_by_hop() -> None:
    version = make_version("hops")
    telemetry, _ = make_telemetry(version)
    telemetry.observe_fetched([FakeRecord(timestamp=9_500)], Lane.REQUESTS, now_s=10.0)
    times = RunTimes(started_s=12.0, ended_s=13.0)
    run = BatchRun([inferred(label=np.array([0, 2])), inferred(label=[2])], times)
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=run)
    telemetry.observe(batch, [succeeded("a", accepted_s=9.0, rows=2), succeeded("b", accepted_s=8.0)], now_s=13.5)
    labels = {"model": "iris", "version": "hops", "lane": "requests"}
    sums = {
        name: sample(f"inferlane_worker_{name}_sum", **labels)
        for name in (
            "topic_wait_seconds",
            "batch_wait_seconds",
            "queue_wait_seconds",
            "inference_seconds",
            "store_seconds",
            "total_seconds",
            "batch_rows",
        )
    }
    assert sums == {
        "topic_wait_seconds": 0.5,
        "batch_wait_seconds": 2.0,
        "queue_wait_seconds": 3.0 + 4.0,
        "inference_seconds": 1.0,
        "store_seconds": 0.5,
        "total_seconds": 4.5 + 5.5,
        "batch_rows": 3,
    }
    assert sample("inferlane_worker_busy_seconds_total", **labels) == 1.0
    assert sample("inferlane_worker_requests_total", **labels, status="SUCCEEDED", reason="none") == 2
    predicted = {
        name: sample("inferlane_worker_predictions_total", model="iris", version="hops", **{"class": name})
        for name in (*version.classes, OTHER)
    }
    assert predicted == {"setosa": 1, "versicolor": 0, "virginica": 2, OTHER: 0}


def test_series_are_there_before_anything_happened() -> None:
    make_telemetry(make_version("fresh"))
    labels = {"model": "iris", "version": "fresh", "lane": "bulk"}
    assert sample("inferlane_worker_total_seconds_count", **labels) == 0
    assert sample("inferlane_worker_requests_total", **labels, status="FAILED", reason="model_error") == 0


def test_an_index_that_names_no_class_counts_as_other() -> None:
    telemetry, _ = make_telemetry(make_version("strange"))
    times = RunTimes(started_s=12.0, ended_s=13.0)
    batch = Batch(lane=Lane.BULK, fetched_s=10.0, run=BatchRun([inferred(label=np.array([-1, 3, 2**62]))], times))
    telemetry.observe(batch, [succeeded("a", accepted_s=9.0)], now_s=13.0)
    assert sample("inferlane_worker_predictions_total", model="iris", version="strange", **{"class": OTHER}) == 3


def test_values_of_a_regression_are_a_histogram_and_a_sketch() -> None:
    signature = Signature(inputs=(), outputs=(TensorSpec(name="price", datatype="FP32", shape=(-1, 1)),))
    version = dataclasses.replace(make_version("price"), classes=(), signature=signature)
    telemetry, recorder = make_telemetry(version)
    times = RunTimes(started_s=12.0, ended_s=13.0)
    prices = np.array([[5.0], [-50.0], [np.nan]], np.float32)
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=BatchRun([inferred(price=prices)], times))
    telemetry.observe(batch, [succeeded("a", accepted_s=9.0)], now_s=13.0)
    labels = {"model": "iris", "version": "price"}
    # With buckets below 0 there is no sum and no count: the last bucket holds all.
    assert sample("inferlane_worker_prediction_value_bucket", **labels, le="+Inf") == 2
    assert sample("inferlane_worker_prediction_value_bucket", **labels, le="0.0") == 1
    summary = recorder.take_summary()
    assert summary is not None
    assert summary.values


@pytest.mark.parametrize("code", ["model_error", "a-code-from-another-release"])
def test_a_failed_request_is_one_line_that_says_which_and_why(code: str) -> None:
    result = Result(request_id="r", status=Status.FAILED, model="rose", version="v9", error_code=code)
    failed = Reply(
        result=result,
        lane=Lane.REQUESTS,
        reply_to=None,
        batch_id=None,
        to_topic=False,
        dead=FakeRecord(),
        trace_parent=f"00-{TRACE}-00f067aa0ba902b7-01".encode(),
    )
    with capture_logs() as lines:
        telemetry, _ = make_telemetry(make_version(f"failing-{code}"))
        telemetry.observe(Batch(lane=Lane.REQUESTS, fetched_s=10.0), [failed], now_s=13.0)
    (line,) = [line for line in lines if line["event"] == "request_failed"]
    assert (line["request_id"], line["trace_id"], line["code"]) == ("r", TRACE, code)
    (batch,) = [line for line in lines if line["event"] == "batch_answered"]
    assert batch["log_level"] == "debug"
    # The record says that it is for another model: what is counted is what this worker serves.
    labels = {"model": "iris", "version": f"failing-{code}", "lane": "requests", "status": "FAILED"}
    reason = code if code == ModelError.code else OTHER
    assert sample("inferlane_worker_requests_total", **labels, reason=reason) == 1
