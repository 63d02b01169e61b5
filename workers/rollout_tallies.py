"""Count what rollouts compare: the requests that the router marked, by rollout and lane. No I/O."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inferlane.contracts.lane_tallies import (
    BUCKETS,
    MAX_TALLIES,
    BucketCounts,
    LaneTally,
    answer_cluster,
    encode_buckets,
    key_bucket,
    run_bin,
    value_labels,
)
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import LABEL_CHARS, OTHER
from inferlane.contracts.results import NO_FAULTS_OF_A_VERSION, Status
from workers.replies import Predictions
from workers.row_comparison import is_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.shadow import ShadowCounts
    from inferlane.runtime.delivery import Reply
    from models.catalog import ModelVersion
    from workers.batching import Batch, InferredRequest


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    failed: int = 0
    expired: int = 0
    rerouted: int = 0
    compared: int = 0
    agreed: int = 0
    rows: int = 0
    runs: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    keyed_answers: dict[str, Counter[int]] = field(default_factory=dict)
    # Requests, failed and expired ones by key bucket; None while no request had a routing key.
    buckets: np.ndarray | None = None


class RolloutTallies:
    """Adds up marked requests until they are taken for a summary. One event loop; costs nothing without a rollout."""

    def __init__(self, version: "ModelVersion") -> None:
        self._labels = (*(label[:LABEL_CHARS] for label in version.classes), OTHER)
        self._predictions = Predictions(version)
        self._held: dict[tuple[str, Lane, bool], _Counts] = {}

    def add(self, batch: "Batch", replies: "Sequence[Reply]") -> None:
        """Add the marked requests of a batch whose replies are delivered."""
        counted = {reply.rollout for reply in replies if reply.rollout}
        for rollout in counted:
            counts = self._counts(rollout, batch.lane)
            if counts is None:
                continue
            inferred = () if batch.run is None else batch.run.inferred
            ours = [one for one in inferred if one.request.headers.rollout == rollout]
            # Answers with NaN or infinity, of both versions: where both give them, the candidate is no worse.
            odd = {
                one.request.headers.request_id for one in ours if one.outputs is not None and not is_finite(one.outputs)
            }
            for reply in replies:
                if reply.rollout == rollout and reply.result.error_code not in NO_FAULTS_OF_A_VERSION:
                    _count(counts, reply, is_odd=reply.result.request_id in odd)
            if batch.run is not None:
                rows = sum(one.request.rows for one in batch.run.inferred)
                counts.runs[run_bin(rows, batch.run.times.inference_s)] += bool(ours)
                self._count_answers(counts, ours)

    def add_shadow(
        self, rollout: str, found: "ShadowCounts", run: int | None, inferred: "Sequence[InferredRequest]"
    ) -> None:
        """Add shadow copies of one batch that were compared; `run` is the `run_bin` of their run."""
        counts = self._counts(rollout, Lane.BULK, is_shadow=True)
        if counts is None:
            return
        senders = sum(count for code, count in found.failures.items() if code in NO_FAULTS_OF_A_VERSION)
        counts.requests += found.copies - senders
        counts.failed += found.failed - senders
        counts.expired += found.expired
        counts.rows += sum(one.request.rows for one in inferred if one.outputs is not None)
        counts.compared += found.compared
        counts.agreed += found.agreed
        if run is not None:
            counts.runs[run] += 1
        self._count_answers(counts, inferred)

    def take(self) -> tuple[LaneTally, ...]:
        """Return the tallies since the last call."""
        held, self._held = self._held, {}
        return tuple(
            LaneTally(
                rollout=rollout,
                lane=lane,
                requests=counts.requests,
                failed=counts.failed,
                expired=counts.expired,
                rerouted=counts.rerouted,
                rows=counts.rows,
                runs=dict(counts.runs),
                answers=dict(counts.answers),
                keyed_answers={label: dict(found) for label, found in counts.keyed_answers.items()},
                buckets=b"" if counts.buckets is None else encode_buckets(BucketCounts(*counts.buckets)),
                is_shadow=is_shadow,
                compared=counts.compared,
                agreed=counts.agreed,
            )
            for (rollout, lane, is_shadow), counts in held.items()
        )

    def _counts(self, rollout: str, lane: Lane, *, is_shadow: bool = False) -> _Counts | None:
        counts = self._held.get((rollout, lane, is_shadow))
        if counts is None and len(self._held) < MAX_TALLIES:
            counts = self._held[rollout, lane, is_shadow] = _Counts()
        return counts

    def _count_answers(self, counts: _Counts, inferred: "Sequence[InferredRequest]") -> None:
        """Count the first row of each request: its other rows are not independent draws."""
        answered = [one for one in inferred if one.outputs is not None and one.request.rows]
        classes, values = self._predictions.of(answered)
        if not answered or (classes is None and values is None):
            return
        firsts = np.cumsum([0, *(one.request.rows for one in answered[:-1])])
        if classes is not None:
            other = len(self._labels) - 1
            labels = [self._labels[index if 0 <= index < other else other] for index in classes[firsts].tolist()]
        elif values is not None:
            labels = value_labels(values[firsts].astype(np.float64))
        for one, label in zip(answered, labels, strict=True):
            routing_key = one.request.headers.routing_key
            if routing_key:
                counts.keyed_answers.setdefault(label, Counter())[answer_cluster(key_bucket(routing_key))] += 1
            else:
                counts.answers[label] += 1


def _count(counts: _Counts, reply: "Reply", *, is_odd: bool) -> None:
    is_failed, is_expired = is_odd or reply.result.status is Status.FAILED, reply.result.status is Status.EXPIRED
    counts.requests += 1
    counts.failed += is_failed
    counts.expired += is_expired
    counts.rerouted += reply.fallback is not None
    counts.rows += reply.result.rows
    if reply.key_bucket >= 0:
        if counts.buckets is None:
            counts.buckets = np.zeros((3, BUCKETS), np.int64)
        counts.buckets[:, reply.key_bucket] += (1, is_failed, is_expired)
