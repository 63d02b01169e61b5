"""How much lag one replica may have: `lagThreshold` from the wait that clients are promised.

A worker that runs full batches of `B` records, each of `r` rows of `s` seconds, with `o` seconds a batch besides:

    t = o + B · r · s                    seconds of a batch
    μ = B / t                            records a second of one replica
    lagThreshold = floor(μ · (W - t) / 1.1)

`W` is the target wait: what a record may wait from the moment that the pool has the size it asks for. The HPA wants
n ≥ lag / (1.1 · lagThreshold), for it leaves a pool as it is while the lag is within 10 % of n · lagThreshold. So that
lag is worked off in at most lag / (n · μ) ≤ 1.1 · lagThreshold / μ = W - t, and the last batch takes `t` itself.

It is also the wait that a pool settles at under a load that keeps it busy: replicas are added for lag alone, so a lag
of n · lagThreshold is what holds n of them. Choose `W` well below the clients' deadline for that reason.

A worker that keeps up has lag too: what it holds in hand, and what it has finished since its last commit. A threshold
below that asks for another replica for every one that works, up to the maximum; such a `W` is refused.
"""

import math
from dataclasses import dataclass

from control_plane.autoscaling.behavior import DEFAULT_TOLERANCE
from inferlane.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPace:
    """How fast one worker of a version is. Take `row_s` from `inferlane models verify` or `GET /v1/metrics/{version}`.

    `max_batch_rows`, `batches_in_flight` and `commit_interval_s` are the worker's settings of the same names.
    """

    row_s: float
    max_batch_rows: int
    batch_overhead_s: float = 0.0
    rows_per_record: float = 1.0
    batches_in_flight: int = 2
    commit_interval_s: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a pace that nothing has.

        Raises:
            ConfigurationError: a time or a count is not positive.
        """
        if self.row_s <= 0 or self.batch_overhead_s < 0:
            raise ConfigurationError(
                f"a row takes {self.row_s:g} s and a batch {self.batch_overhead_s:g} s more; give more than 0 s a row"
            )
        if self.max_batch_rows < 1 or self.rows_per_record <= 0:
            raise ConfigurationError(
                f"{self.max_batch_rows} rows a batch and {self.rows_per_record:g} a record; give at least 1 a batch"
            )

    @property
    def batch_records(self) -> float:
        """Records of a full batch; a record that is larger than a batch takes several."""
        return self.max_batch_rows / self.rows_per_record

    @property
    def batch_s(self) -> float:
        """Seconds of a full batch."""
        return self.batch_overhead_s + self.max_batch_rows * self.row_s

    @property
    def records_per_s(self) -> float:
        """Records a second of a worker that always finds full batches."""
        return self.batch_records / self.batch_s

    @property
    def records_in_hand(self) -> int:
        """The lag of a busy worker that keeps up."""
        return math.ceil(self.batches_in_flight * self.batch_records + self.commit_interval_s * self.records_per_s)

    @property
    def shortest_wait_s(self) -> float:
        """The least target wait that `lag_threshold_records` takes."""
        return self.batch_s + (self.records_in_hand + 1) * (1 + DEFAULT_TOLERANCE) / self.records_per_s


def lag_threshold_records(pace: WorkerPace, *, target_wait_s: float) -> int:
    """Return the `lagThreshold` that works any lag off within the target wait once the pool has its size.

    Raises:
        ConfigurationError: the wait is so short that a worker's own batches would count as lag.
    """
    threshold = math.floor(pace.records_per_s * (target_wait_s - pace.batch_s) / (1 + DEFAULT_TOLERANCE))
    if threshold < pace.records_in_hand:
        raise ConfigurationError(
            f"a wait of {target_wait_s:g} s cannot be kept: one worker has {pace.records_in_hand} records in hand and "
            f"takes {pace.batch_s:.3g} s for a batch. Ask for {pace.shortest_wait_s:.3g} s or more, or lower "
            "INFERLANE_MAX_BATCH_ROWS or INFERLANE_BATCHES_IN_FLIGHT."
        )
    return threshold
