"""Runs of several pools as one, and what they come to in a few numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.autoscaling.load import LANES
from control_plane.autoscaling.simulation import PoolRun

Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWaits:
    """Quantiles over all records of a lane, in seconds; infinite where the records were not taken before the end."""

    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`worker_hours`: of ready workers. `asleep_share`: of the time, with no worker wanted, over all pools."""

    records: float
    peak_workers: int
    worker_hours: float
    asleep_share: float
    peak_lag_records: float
    left_records: float
    waits: Mapping[str, LaneWaits]


def summarize(runs: Sequence[tuple[PoolRun, int]]) -> Summary:
    """Return the numbers of pools together; each run with how many pools are like it."""
    total = merged(runs)
    step_s = float(total.time_s[1] - total.time_s[0]) if len(total.time_s) > 1 else 1.0
    asleep = sum(float((run.wanted == 0).mean()) * count for run, count in runs)
    lag = total.lag_records.sum(axis=1)
    return Summary(
        records=float(total.arrived.sum()),
        peak_workers=int(total.wanted.max()),
        worker_hours=float(total.ready.sum()) * step_s / 3600,
        asleep_share=asleep / sum(count for _, count in runs),
        peak_lag_records=float(lag.max()),
        left_records=float(lag[-1]),
        waits={
            name: _lane_waits(runs, lane) for lane, name in enumerate(LANES) if float(total.arrived[:, lane].sum()) > 0
        },
    )


def merged(runs: Sequence[tuple[PoolRun, int]]) -> PoolRun:
    """Return the pools as one: sums of workers and records, and of each step the mean wait of what came in it."""
    arrived = np.sum([run.arrived * count for run, count in runs], axis=0)
    # Nothing times an unknown wait is nothing.
    waited = np.sum([np.where(run.arrived > 0, run.wait_s, 0.0) * run.arrived * count for run, count in runs], axis=0)
    return PoolRun(
        time_s=runs[0][0].time_s,
        arrived=arrived,
        wanted=np.sum([run.wanted * count for run, count in runs], axis=0),
        ready=np.sum([run.ready * count for run, count in runs], axis=0),
        lag_records=np.sum([run.lag_records * count for run, count in runs], axis=0),
        wait_s=np.divide(waited, arrived, out=np.full_like(arrived, np.nan), where=arrived > 0),
    )


def _lane_waits(runs: Sequence[tuple[PoolRun, int]], lane: int) -> LaneWaits:
    waits = np.concatenate([run.wait_s[:, lane] for run, _ in runs])
    weights = np.concatenate([run.arrived[:, lane] * count for run, count in runs])
    came = weights > 0
    order = np.argsort(waits[came])
    waits, reached = waits[came][order], np.cumsum(weights[came][order])

    def quantile(share: float) -> float:
        return float(waits[np.searchsorted(reached, share * reached[-1] * (1 - 1e-9))])

    return LaneWaits(p50_s=quantile(0.5), p99_s=quantile(0.99), max_s=float(waits[-1]))
