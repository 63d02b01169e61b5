"""Labels of a version without classes: counted by name, as many as are bounded, and held by outcome tokens."""

import dataclasses

import numpy as np
import pytest
from prometheus_client import REGISTRY

from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import OTHER
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.runtime.metrics.instruments import MAX_CLASSES
from models.catalog import ModelVersion
from tests.support.fakes.records import make_version
from tests.unit.workers.test_batch_telemetry import inferred, make_telemetry, succeeded
from workers.batching import Batch, BatchRun, RunTimes
from workers.open_labels import OpenLabels, open_label_output
from workers.row_comparison import labels_of


def version_with(*outputs: TensorSpec, name: str = "open", classes: tuple[str, ...] = ()) -> ModelVersion:
    return dataclasses.replace(
        make_version(name), classes=classes, signature=Signature(inputs=(), outputs=outputs), steps=None
    )


LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))
TEXT = TensorSpec(name="label", datatype="BYTES", shape=(-1, 1))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))


@pytest.mark.parametrize(
    ("spec", "labels", "expected"),
    [
        (LABEL, np.array([-1, 7, 7]), {"-1": 1, "7": 2}),
        (TEXT, np.array([["DE"], ["日本"], ["DE"]], np.dtypes.StringDType()), {"DE": 2, "日本": 1}),
        (
            TensorSpec(name="label", datatype="BOOL", shape=(-1,)),
            np.array([True, False, True]),
            {"True": 2, "False": 1},
        ),
        (TensorSpec(name="label", datatype="UINT8", shape=(-1, 1)), np.array([[3]], np.uint8), {"3": 1}),
    ],
)
def test_labels_are_counted_by_name_in_prometheus_and_in_the_windows(
    spec: TensorSpec, labels: np.ndarray, expected: dict[str, int]
) -> None:
    version = version_with(SCORES, spec, name=f"open-{spec.datatype}")
    telemetry, recorder = make_telemetry(version)
    for part in (labels[:1], labels[1:]):
        run = BatchRun([inferred(label=part)] if len(part) else [], RunTimes(started_s=12.0, ended_s=13.0))
        batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=run)
        telemetry.observe(batch, [succeeded("a", accepted_s=9.0)], now_s=13.0)

    summary = recorder.take_summary()
    assert summary is not None
    assert summary.classes == expected
    series = {"model": "iris", "version": version.version}
    assert {
        label: REGISTRY.get_sample_value("inferlane_worker_predictions_total", {**series, "class": label})
        for label in expected
    } == expected


def test_the_number_of_labels_that_are_told_apart_is_bounded() -> None:
    labels = OpenLabels(version_with(LABEL))

    first = labels.count([inferred(label=np.arange(MAX_CLASSES - 1))])
    assert len(first) == MAX_CLASSES - 1
    then = labels.count([inferred(label=np.arange(MAX_CLASSES + 5)), inferred(label=np.array([2**62]))])
    assert set(then) == {*map(str, range(MAX_CLASSES)), OTHER}
    assert then[OTHER] == 6


@pytest.mark.parametrize(
    "version",
    [
        version_with(SCORES),
        version_with(TensorSpec(name="price", datatype="FP32", shape=(-1, 1))),
        version_with(TensorSpec(name="boxes", datatype="INT64", shape=(-1, 4))),
        # Counted by index.
        version_with(LABEL, classes=("no", "yes")),
    ],
)
def test_other_outputs_are_no_labels(version: ModelVersion) -> None:
    assert open_label_output(version) is None
    assert OpenLabels(version).count([inferred(**{spec.name: np.zeros(1) for spec in version.signature.outputs})]) == {}


def test_an_outcome_token_holds_a_label_as_clients_see_it() -> None:
    assert labels_of({"label": np.array([["DE"]], np.dtypes.StringDType())}, "label", ()) == ["DE"]
    assert labels_of({"label": np.array([-1, 5])}, "label", ()) == ["-1", "5"]
