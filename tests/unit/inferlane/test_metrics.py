"""The catalogue of metrics: names, documents, and that no foreign name becomes a label."""

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from inferlane.contracts.outcomes import OTHER
from inferlane.errors import InvalidInputError, ModelError, UnknownModelError
from inferlane.runtime.kafka.lag import OldestAge
from inferlane.runtime.kafka.offsets import PartitionPosition
from inferlane.runtime.metrics.instruments import (
    MAX_CLASSES,
    NONE,
    UNKNOWN,
    BatchHistogram,
    Kind,
    KnownPools,
    MetricSpec,
    bounded,
    class_labels,
    error_reasons,
    every_metric,
)
from producer_api.predict.telemetry import ResponseMetrics
from tests.support.fakes.records import make_catalog

DOCUMENT = Path(__file__).parents[3] / "docs" / "monitoring.md"


@pytest.mark.parametrize("metric", every_metric(), ids=lambda metric: metric.name)
def test_a_name_has_our_prefix_and_a_unit_or_total(metric: MetricSpec) -> None:
    assert metric.name.startswith("inferlane_")
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    if metric.kind is not Kind.COUNTER:
        units = (
            "_seconds",
            "_records",
            "_requests",
            "_bytes",
            "_rows",
            "_ratio",
            "_workers",
            "_value",
            "_halted",
            "_info",
        )
        assert metric.name.endswith(units)
    assert "request_id" not in metric.labels


@pytest.mark.parametrize("metric", every_metric(), ids=lambda metric: metric.name)
def test_every_metric_is_in_the_document_with_its_labels(metric: MetricSpec) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.name}` | {metric.kind} | {labels or 'none'} | {metric.about} |" in DOCUMENT.read_text()


def test_the_document_names_no_metric_that_is_not_there() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `inferlane_")]
    assert len(rows) == len(every_metric())


def test_names_that_the_catalog_does_not_know_are_no_labels() -> None:
    pools = KnownPools([("iris", "v1")])
    assert pools.labels("iris", "v1") == ("iris", "v1")
    assert pools.labels("iris", None) == ("iris", NONE)
    assert pools.labels("iris", "v9") == ("iris", UNKNOWN)
    assert pools.labels("rose", "v1") == (UNKNOWN, UNKNOWN)
    assert pools.labels(None, None) == (NONE, NONE)


def answer_series() -> set[tuple[str, ...]]:
    return {
        tuple(sample.labels[name] for name in ("model", "version", "status", "reason"))
        for family in REGISTRY.collect()
        if family.name == "inferlane_api_answers"
        for sample in family.samples
    }


def test_answers_of_strange_names_and_codes_make_no_series_of_their_own() -> None:
    metrics = ResponseMetrics(make_catalog())
    before = answer_series()
    for number in range(50):
        metrics.observe_response(f"m{number}", f"v{number}", status=599, reason=f"code{number}", took_s=0.1)
    metrics.observe_response("iris", "v2", status=503, reason=UnknownModelError.code, took_s=0.1)
    assert answer_series() - before == {
        (UNKNOWN, UNKNOWN, "599", OTHER),
        ("iris", "v2", "503", UnknownModelError.code),
    }


def test_a_reason_is_an_error_code_or_other() -> None:
    known = error_reasons(beside=("cancelled",))
    assert {InvalidInputError.code, ModelError.code, "cancelled"} <= known
    assert (bounded(None, known), bounded("cancelled", known), bounded("x", known)) == (NONE, "cancelled", OTHER)


def test_a_model_with_many_classes_has_few_series() -> None:
    labels = class_labels([str(number) for number in range(5_000)])
    assert len(labels) == MAX_CLASSES + 1
    assert labels[-1] == OTHER


def test_a_batch_histogram_counts_as_one_of_single_values_would() -> None:
    registry = CollectorRegistry()
    histogram = BatchHistogram("h_seconds", "About.", ("lane",), buckets=(0.1, 1.0), registry=registry)
    histogram.labels("requests").observe_many(np.array([0.1, 0.5, 1.0, 7.0, np.nan, np.inf]))
    histogram.labels("requests").observe_many(np.array([]))
    histogram.labels("bulk")
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    found = {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}
    assert [found["h_seconds_bucket", "requests", bound] for bound in ("0.1", "1.0", "+Inf")] == [1, 3, 4]
    assert found["h_seconds_count", "requests"] == 4
    assert found["h_seconds_sum", "requests"] == pytest.approx(8.6)
    assert found["h_seconds_count", "bulk"] == 0


@pytest.mark.parametrize(("batches", "size"), [(200, 1), (3, 2_000), (1, 1)])
def test_batches_are_counted_whenever_they_are_read(batches: int, size: int) -> None:
    """Guards the batches that wait to be counted: in `cumulative` and `total`, and past their bounds."""
    values = np.random.default_rng(1).random(batches * size)
    for read in ("cumulative", "total"):
        child = BatchHistogram("h", "About.", (), buckets=(0.25, 0.5), registry=CollectorRegistry()).labels()
        for part in np.split(values, batches):
            child.observe_many(part)
        if read == "cumulative":
            counts = [count for _, count in child.cumulative()]
            assert counts == [(values <= 0.25).sum(), (values <= 0.5).sum(), len(values)]
        else:
            assert child.total == pytest.approx(values.sum())


def test_labels_of_another_number_are_refused() -> None:
    histogram = BatchHistogram("h", "About.", ("lane",), buckets=(1.0,), registry=CollectorRegistry())
    with pytest.raises(ValueError, match="lane"):
        histogram.labels("a", "b")


def positions(*committed_and_end: tuple[int, int]) -> list[PartitionPosition]:
    return [PartitionPosition(beginning=0, committed=committed, end=end) for committed, end in committed_and_end]


def test_the_age_is_that_of_the_oldest_waiting_record() -> None:
    age = OldestAge()
    assert age.note(positions((10, 10)), at_s=0) == 0
    assert age.note(positions((10, 15)), at_s=5) == 0  # Seen for the first time now.
    assert age.note(positions((10, 20)), at_s=10) == 5
    assert age.note(positions((15, 20)), at_s=15) == 5  # What came by 5 is done; what came by 10 waits.
    assert age.note(positions((20, 20)), at_s=20) == 0


def test_one_partition_that_stands_still_makes_the_age() -> None:
    age = OldestAge()
    age.note(positions((0, 1), (0, 1)), at_s=0)
    assert age.note(positions((0, 1), (100, 120)), at_s=60) == 60


def test_a_topic_that_was_made_anew_starts_over() -> None:
    age = OldestAge()
    age.note(positions((0, 100)), at_s=0)
    assert age.note(positions((0, 1)), at_s=60) == 0


def test_a_long_stand_keeps_its_age_in_bounded_memory() -> None:
    age = OldestAge()
    for second in range(3_000):
        found = age.note(positions((0, second + 1)), at_s=second)
    assert found == 2_999
    assert len(age._ends[0]) <= 1_024
