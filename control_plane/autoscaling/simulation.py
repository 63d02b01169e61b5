"""One pool under a load: what the policy decides, what the workers finish, how long records wait.

Records are a fluid, in steps of time: each step they come evenly over the partitions, a ready worker takes what its
pace allows from the partitions that are its own, clients' records first, and bulk gets its share. A new worker is ready
after `start_s`, and each change of the members stops all of them for `rebalance_s`, as an eager assignor does. What is
left out: sizes of records, limits of the broker, workers that die, what a worker has in hand and not committed.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control_plane.autoscaling.lag import PartitionOffsets
from control_plane.autoscaling.load import LANES, Load
from control_plane.autoscaling.pool import HPA_SYNC_S, PoolScaler
from control_plane.autoscaling.scaled_object import ScaledObject
from control_plane.autoscaling.threshold import WorkerPace

Series = NDArray[np.float64]

# Of a cumulative count, below which two are the same: sums of many steps are not exact.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolModel:
    """A pool and how its workers are. `lanes`: for each trigger of `numbers`, the index in `LANES` of its topic."""

    numbers: ScaledObject
    pace: WorkerPace
    partitions: int
    start_s: float
    rebalance_s: float
    bulk_share: float = 0.2
    lanes: tuple[int, ...] = (0, 1)
    hpa_sync_s: float = HPA_SYNC_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRun:
    """What became of a load, step by step; arrays of (steps,) or (steps, lanes) float64.

    `wait_s`: of what came in that step, seconds until it was taken, the mean over the partitions; NaN where nothing
    came, infinite where it was not taken before the end.
    """

    time_s: Series
    arrived: Series
    wanted: Series
    ready: Series
    lag_records: Series
    wait_s: Series


@dataclass(slots=True)
class _Members:
    """The workers: ready ones, those that start (each by when it is ready), and until when the group stands still."""

    start_s: float
    rebalance_s: float
    ready: int
    starting: deque[float] = field(default_factory=deque)
    stopped_until_s: float = 0.0

    def follow(self, wanted: int, *, now_s: float) -> None:
        before = self.ready
        while self.starting and self.starting[0] <= now_s:
            self.starting.popleft()
            self.ready += 1
        while self.ready + len(self.starting) < wanted:
            self.starting.append(now_s + self.start_s)
        while self.ready + len(self.starting) > wanted:
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
    """Return the run of the load through a pool that sleeps, or has its minimum, when it begins."""
    steps, lanes, partitions = len(load.rates), len(LANES), model.partitions
    replicas = model.numbers.min_replicas
    scaler = PoolScaler(model.numbers, replicas=replicas, now_s=0.0, hpa_sync_s=model.hpa_sync_s)
    members = _Members(model.start_s, model.rebalance_s, replicas)
    came = np.cumsum(load.rates * load.step_s, axis=0) / partitions
    done = np.zeros((steps, lanes, partitions))
    taken = np.zeros((lanes, partitions))
    wanted, ready = np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        now_s = step * load.step_s
        if now_s >= scaler.next_look_s:
            scaler.look([_offsets(came[step, lane] - taken[lane]) for lane in model.lanes], now_s=now_s)
        members.follow(scaler.replicas, now_s=now_s)
        taken += _served(came[step][:, None] - taken, members.serving(now_s), model, load.step_s)
        done[step] = taken
        wanted[step], ready[step] = scaler.replicas, members.ready
    return PoolRun(
        time_s=np.arange(steps, dtype=np.float64) * load.step_s,
        arrived=load.rates * load.step_s,
        wanted=wanted,
        ready=ready,
        # Sums of fractions: an empty queue may come out a hair below 0.
        lag_records=np.maximum(came * partitions - done.sum(axis=2), 0.0),
        wait_s=_waits(came, done, load),
    )


def _offsets(waiting: Series) -> list[PartitionOffsets]:
    """Whole records of what waits in each partition; what the fractions add up to goes to the largest of them."""
    lags = np.floor(waiting + _ROUNDING)
    rest = int(waiting.sum() + _ROUNDING - lags.sum())
    lags[np.argsort(lags - waiting)[:rest]] += 1
    return [PartitionOffsets(end=int(lag), committed=0) for lag in lags]


def _served(waiting: Series, workers: int, model: PoolModel, step_s: float) -> Series:
    """Return what is taken in a step of what waits, both (lanes, partitions)."""
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
    """Return, for what came in each step, the mean over the partitions of the time until it was taken."""
    steps, lanes, partitions = done.shape
    waits = np.full((steps, lanes), np.nan)
    for lane in range(lanes):
        arrivals = load.rates[:, lane] > 0
        sought = came[arrivals, lane] * (1 - _ROUNDING)
        until = np.stack([np.searchsorted(done[:, lane, one], sought) for one in range(partitions)])
        waited = (until - np.flatnonzero(arrivals)) * load.step_s
        waits[arrivals, lane] = np.where(until < steps, waited, np.inf).mean(axis=0)
    return waits
