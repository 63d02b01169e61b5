"""What a worker did, for Prometheus, for the outcome windows and for the limit of failures."""

from collections import Counter as Tally
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferlane.metrics import WORKER_BATCH_ROWS, WORKER_INFERENCE, WORKER_QUEUE_WAIT, WORKER_REQUESTS
from inferlane.results import Result, Status
from inferlane.topics import Lane

if TYPE_CHECKING:
    from prometheus_client import Counter

    from models.catalog import ModelVersion
    from workers.batching import Outcome
    from workers.failure_limit import FailureLimit
    from workers.outcomes import OutcomeRecorder


class Observer:
    """Counts once a batch; nothing here costs a call a record."""

    def __init__(self, version: "ModelVersion", recorder: "OutcomeRecorder", limit: "FailureLimit") -> None:
        self._limit = limit
        self._recorder = recorder
        names = (version.model, version.version)
        self._label = _label_output(version)
        self._rows = {lane: WORKER_BATCH_ROWS.labels(*names, lane) for lane in Lane}
        self._queue_wait = {lane: WORKER_QUEUE_WAIT.labels(*names, lane) for lane in Lane}
        self._inference = {lane: WORKER_INFERENCE.labels(*names, lane) for lane in Lane}
        self._requests: dict[tuple[Lane, Status], Counter] = {
            (lane, status): WORKER_REQUESTS.labels(*names, lane, status)
            for lane in Lane
            for status in Status
            if status is not Status.QUEUED
        }

    def observe(self, lane: Lane, results: Sequence[Result], outcomes: "Sequence[Outcome]") -> None:
        """Count delivered results and the runs that they came from."""
        if not results:
            return
        self._limit.note(results)
        statuses = Tally(result.status for result in results)
        for status, count in statuses.items():
            self._requests[lane, status].inc(count)
        done = [result for result in results if result.status is Status.SUCCEEDED]
        rows = sum(result.rows for result in done)
        queue_wait_s = np.array([result.queue_wait_s for result in done])
        if done:
            self._rows[lane].observe(rows)
            self._inference[lane].observe(done[0].inference_s)
            self._queue_wait[lane].observe(float(queue_wait_s.max()))
        self._recorder.observe_batch(
            statuses=statuses,
            rows=rows,
            queue_wait_s=queue_wait_s,
            inference_s=np.array([result.inference_s for result in done]),
            total_s=np.array([result.finished_s - result.accepted_s for result in done]),
            labels=self._labels(outcomes),
            failures=Tally(result.error_code or "unknown" for result in results if result.error_code is not None),
        )

    def _labels(self, outcomes: "Sequence[Outcome]") -> np.ndarray | None:
        found = [outcome.outputs[self._label] for outcome in outcomes if self._label and outcome.outputs is not None]
        return np.concatenate(found) if found else None


def _label_output(version: "ModelVersion") -> str | None:
    """The output that holds class indices: one whole number a row, of a model that names its classes."""
    for spec in version.signature.outputs:
        if version.classes and not spec.row_shape and spec.datatype.startswith("INT"):
            return spec.name
    return None
