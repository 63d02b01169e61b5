"""Whether a request can be answered before its deadline: the backlog of each version against what it finishes."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import OverloadedError, UnavailableError
from inferlane.kafka.backlog import BacklogReader, Subscription
from inferlane.metrics.api import BACKLOG, SERVICE_RATE
from inferlane.naming import Lane
from producer_api.service_rate import ServiceRate

if TYPE_CHECKING:
    from inferlane.config import Settings
    from inferlane.splits import SplitTable
    from models.catalog import Catalog

log = structlog.get_logger(__name__)

_RETRY_S = 2.0
# For how long, and for how many requests, an estimate stands that each of them adds to: making one costs a request as
# much as reading it does.
_ESTIMATE_S = 0.005
_ESTIMATE_REQUESTS = 32


@dataclass(frozen=True, slots=True)
class _Estimate:
    """The wait of a new request, how much waits before it, what each newer one adds, and what they were made from."""

    wait_s: float
    record_s: float
    lag_records: int
    accepted: int
    until_s: float


@dataclass(slots=True)
class _Version:
    subscription: Subscription
    rate: ServiceRate = field(default_factory=ServiceRate)


class Admission:
    """Refuses what cannot be answered in time, before it is accepted. One event loop.

    The broker's own numbers count, so what other replicas and producers sent is seen too. They are asked for while
    requests come or wait, and not on an idle machine.
    """

    def __init__(self, settings: "Settings", *, catalog: "Catalog", splits: "SplitTable") -> None:
        self._settings = settings
        self._catalog = catalog
        self._splits = splits
        self._reader = BacklogReader(settings)
        self._router = ServiceRate()
        names = settings.names
        self._ingress = Subscription(names.ingress[Lane.REQUESTS], names.router_group)
        self._versions = {
            (version.model, version.version): _Version(
                Subscription(
                    names.work_topic(version.model, version.version, Lane.REQUESTS),
                    names.worker_group(version.model, version.version),
                )
            )
            for version in catalog.all_versions()
        }
        self._accepted = 0
        self._estimates: dict[tuple[str, str | None], _Estimate] = {}
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch_for_ever(), name="backlog")

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._reader.close()

    @property
    def is_running(self) -> bool:
        """Whether the backlog is still looked at."""
        return self._task is not None and not self._task.done()

    def admit(self, model: str, version: str | None, *, within_s: float) -> None:
        """Count a request in that must be answered `within_s` seconds from now.

        Raises:
            OverloadedError: it would not be; the error says after how many seconds another try is worth while.
        """
        # Also for one that is refused: somebody must look again, or what is wrong by now would refuse for ever.
        self._came.set()
        now_s = time.monotonic()
        estimate = self._estimates.get((model, version))
        newer = self._accepted - estimate.accepted if estimate else 0
        if estimate is None or now_s >= estimate.until_s or newer >= _ESTIMATE_REQUESTS:
            estimate, newer = self._estimate(model, version, now_s=now_s), 0
            self._estimates[model, version] = estimate
        wait_s, lag_records = estimate.wait_s + newer * estimate.record_s, estimate.lag_records + newer
        limit = self._settings.max_backlog_records
        if lag_records >= limit:
            raise OverloadedError(
                f"{lag_records} requests of {model} wait, the limit is {limit} (INFERLANE_MAX_BACKLOG_RECORDS); "
                "send again later, or grow the pool",
                retry_after_s=max(1.0, wait_s / 2),
            )
        if wait_s > within_s:
            raise OverloadedError(
                f"{lag_records} requests of {model} wait, a new one for about {wait_s:.1f} s, and it must be answered "
                f"within {within_s:.1f} s; send again after the seconds of Retry-After, or allow more with deadline_s",
                retry_after_s=wait_s - within_s,
            )
        self._accepted += 1

    def _estimate(self, model: str, version: str | None, *, now_s: float) -> _Estimate:
        """The wait of half of the traffic, and how much waits before it: one slow canary must not refuse everybody."""
        routed_s = self._router.expected_wait_s(now_s=now_s, newer_records=self._accepted)
        weights = {version: 1.0} if version else self._weights(model)
        total = sum(weights.values())
        waits = []
        for name, weight in weights.items():
            rate = self._versions[model, name].rate
            newer = int(self._accepted * weight / total)
            wait_s = rate.expected_wait_s(now_s=now_s, newer_records=newer)
            waits.append((wait_s, rate.lag_records + newer, weight, rate.record_s * weight / total))
        waits.sort()
        shares = accumulate(weight for _, _, weight, _ in waits)
        median = next(wait for wait, share in zip(waits, shares, strict=True) if share >= total / 2)
        wait_s, lag_records, _, record_s = median
        return _Estimate(
            wait_s=routed_s + wait_s,
            record_s=self._router.record_s + record_s,
            lag_records=self._router.lag_records + lag_records,
            accepted=self._accepted,
            until_s=now_s + _ESTIMATE_S,
        )

    def _weights(self, model: str) -> Mapping[str, float]:
        split = self._splits.get(model)
        weights = {
            name: weight
            for name, weight in (split.weights.items() if split else ())
            if weight > 0 and (model, name) in self._versions
        }
        return weights or {self._catalog.model(model).default_version: 1.0}

    async def _watch_for_ever(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            try:
                async with asyncio.timeout(self._settings.kafka_request_timeout_ms / 1000):
                    await self._look()
            except (UnavailableError, TimeoutError) as error:
                log.warning("backlog_not_read", error=str(error), retry_s=_RETRY_S)
                self._came.set()
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(self._settings.backlog_poll_s)

    async def _look(self) -> None:
        accepted = self._accepted
        watched = [self._ingress, *(version.subscription for version in self._versions.values())]
        positions = await self._reader.read(watched)
        at_s = time.monotonic()
        # What came while the broker was asked may or may not be in its answer; counted twice for a moment is safer.
        self._accepted -= accepted
        self._estimates.clear()
        if self._ingress in positions:
            self._router.note(positions[self._ingress], at_s=at_s)
        for (model, name), version in self._versions.items():
            position = positions.get(version.subscription)
            if position is None:
                # Its topic is gone, and with it what waited there.
                version.rate = ServiceRate()
                continue
            version.rate.note(position, at_s=at_s)
            BACKLOG.labels(model, name).set(position.lag_records)
            SERVICE_RATE.labels(model, name).set(version.rate.records_a_second or 0.0)
        if any(position.lag_records for position in positions.values()):
            self._came.set()
