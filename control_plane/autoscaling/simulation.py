"""Simulate one pool under a load: the policy's decisions, the workers' throughput and the records' waits.

Records are a fluid, in steps of time: each step they come evenly over the partitions, a ready worker takes what its
pace allows from the partitions that are its own, clients' records first, and bulk gets its share. A new worker is ready
after `start_s`, and each change of the members stops all of them for `rebalance_s`, as an eager assignor does. What is
left out: sizes of records, limits of the broker, workers that die, what a worker has in hand and not committed.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.autoscaling.desired_replicas import HPA_SYNC_S, PartitionOffsets, PoolScaler
from control_plane.autoscaling.scaled_object import ScaledObject
from control_plane.autoscaling.simulated_load import LANES, Load

Series = NDArray[np.float64]

# Of a cumulative count, below which two are the same: sums of many steps are not exact.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolModel:
    """A pool and the pace of its workers. `lanes`: the index in `LANES` of each trigger of `scaled_object`."""

    scaled_object: ScaledObject
    pace: WorkerPace
    partitions: int
    start_s: float
    rebalance_s: float
    bulk_share: float = 0.2
    lanes: tuple[int, ...] = (0, 1)
    hpa_sync_s: float = HPA_SYNC_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRun:
    """The course of a load, step by step; arrays of (steps,) or (steps, lanes) float64.

    `wait_s`: of what came in that step, seconds until it was taken, the mean over the partitions; NaN where nothing
    came, infinite where it was not taken before the end.
    """

    time_s: Series
    arrived: Series
    desired: Series
    ready: Series
    lag_records: Series
    wait_s: Series


@dataclass(slots=True)
class _Members:
    """The workers: ready ones, starting ones (by the time they are ready), and the end of the current rebalance."""

    start_s: float
    rebalance_s: float
    ready: int
    starting: deque[float] = field(default_factory=deque)
    stopped_until_s: float = 0.0

    def follow(self, desired: int, *, now_s: float) -> None:
        before = self.ready
        while self.starting and self.starting[0] <= now_s:
            self.starting.popleft()
            self.ready += 1
        while self.ready + len(self.starting) < desired:
            self.starting.append(now_s + self.start_s)
        while self.ready + len(self.starting) > desired:
            # Those that are not ready yet go first.
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
        if self.ready != before:
            self.stopped_until_s = now_s + self.rebalance_s

    def serving(self, now_s: float) -> int:
        return 0 if now_s < self.stopped_until_s else self.ready


def simulate(model: PoolModel, load: Load) -> PoolRun:
    """Run the load through a pool that begins with its minimum of workers."""
    steps, lanes, partitions = len(load.rates), len(LANES), model.partitions
    replicas = model.scaled_object.min_replicas
    scaler = PoolScaler(model.scaled_object, replicas=replicas, now_s=0.0, hpa_sync_s=model.hpa_sync_s)
    members = _Members(model.start_s, model.rebalance_s, replicas)
    came = np.cumsum(load.rates * load.step_s, axis=0) / partitions
    done = np.zeros((steps, lanes, partitions))
    taken = np.zeros((lanes, partitions))
    desired, ready = np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        now_s = step * load.step_s
        if now_s >= scaler.next_look_s:
            scaler.look([_offsets(came[step, lane] - taken[lane]) for lane in model.lanes], now_s=now_s)
        members.follow(scaler.replicas, now_s=now_s)
        taken += _served(came[step][:, None] - taken, members.serving(now_s), model, load.step_s)
        done[step] = taken
        desired[step], ready[step] = scaler.replicas, members.ready
    return PoolRun(
        time_s=np.arange(steps, dtype=np.float64) * load.step_s,
        arrived=load.rates * load.step_s,
        desired=desired,
        ready=ready,
        # Sums of fractions: an empty queue may come out a hair below 0.
        lag_records=np.maximum(came * partitions - done.sum(axis=2), 0.0),
        wait_s=_waits(came, done, load),
    )


def _offsets(waiting: Series) -> list[PartitionOffsets]:
    """Round the waiting records of each partition; the remainder goes to the largest fractions."""
    lags = np.floor(waiting + _ROUNDING)
    rest = int(waiting.sum() + _ROUNDING - lags.sum())
    lags[np.argsort(lags - waiting)[:rest]] += 1
    return [PartitionOffsets(end=int(lag), committed=0) for lag in lags]


def _served(waiting: Series, workers: int, model: PoolModel, step_s: float) -> Series:
    """Return how many of the waiting records are fetched in a step; both (lanes, partitions)."""
    workers = min(workers, model.partitions)
    if workers == 0:
        return np.zeros_like(waiting)
    owner = np.arange(model.partitions) % workers
    room = model.pace.records_per_s * step_s
    requests, bulk = (np.bincount(owner, lane, minlength=workers) for lane in waiting)
    # Clients first; of a step in which both have work, bulk gets its share.
    for_bulk = np.minimum(bulk, np.maximum(room * model.bulk_share, room - requests))
    for_requests = np.minimum(requests, room - for_bulk)
    parts = [
        np.divide(served, total, out=np.zeros(workers), where=total > 0)
        for served, total in ((for_requests, requests), (for_bulk, bulk))
    ]
    return np.stack([lane * part[owner] for lane, part in zip(waiting, parts, strict=True)])


def _waits(came: Series, done: Series, load: Load) -> Series:
    """Return the mean time until records were fetched, by the step in which they arrived."""
    steps, lanes, partitions = done.shape
    waits = np.full((steps, lanes), np.nan)
    for lane in range(lanes):
        arrivals = load.rates[:, lane] > 0
        sought = came[arrivals, lane] * (1 - _ROUNDING)
        until = np.stack([np.searchsorted(done[:, lane, one], sought) for one in range(partitions)])
        waited = (until - np.flatnonzero(arrivals)) * load.step_s
        waits[arrivals, lane] = np.where(until < steps, waited, np.inf).mean(axis=0)
    return waits


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWaits:
    """Quantiles over all records of a lane, in seconds; infinite where records were not fetched before the end."""

    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`worker_hours`: of ready workers. `asleep_share`: of the time, with no worker desired, over all pools."""

    records: float
    peak_workers: int
    worker_hours: float
    asleep_share: float
    peak_lag_records: float
    left_records: float
    waits: Mapping[str, LaneWaits]


def summarize(runs: Sequence[tuple[PoolRun, int]]) -> Summary:
    """Return the totals over all pools; each run comes with the number of pools like it."""
    total = merged(runs)
    step_s = float(total.time_s[1] - total.time_s[0]) if len(total.time_s) > 1 else 1.0
    asleep = sum(float((run.desired == 0).mean()) * count for run, count in runs)
    lag = total.lag_records.sum(axis=1)
    return Summary(
        records=float(total.arrived.sum()),
        peak_workers=int(total.desired.max()),
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
        desired=np.sum([run.desired * count for run, count in runs], axis=0),
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
