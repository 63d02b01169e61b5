"""Admission control: refuse a request that the backlog of its version would make miss its deadline."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import structlog

from inferlane.contracts.naming import Lane
from inferlane.contracts.traffic_split import shares_of
from inferlane.errors import InferlaneError, OverloadedError
from inferlane.runtime.kafka.offsets import Position, Subscription
from inferlane.runtime.metrics.api_metrics import BACKLOG, SERVICE_RATE
from inferlane.runtime.metrics.instruments import forget_series
from inferlane.runtime.service import Background
from producer_api.predict.service_rate import ServiceRate

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import KafkaSettings
    from inferlane.runtime.split_table import SplitTable
    from models.catalog import Catalog
    from models.live_catalog import AnyCatalog

log = structlog.get_logger(__name__)

_RETRY_S = 2.0
# An estimate is reused for this long and for this many requests, each of which adds to it: a new estimate costs as
# much as reading a request.
_ESTIMATE_S = 0.005
_ESTIMATE_REQUESTS = 32
# While requests are refused, one is admitted this often as a probe, so that a wrong estimate is corrected. Too seldom
# refuses requests that would be answered in time; too often admits requests that expire.
_PROBE_INTERVAL_S = 1.0
# A little less than a half, because shares may not sum to exactly 1 in binary.
_HALF = 0.5 - 1e-9


class PositionReader(Protocol):
    """Reads committed and end offsets of consumer groups: `BacklogReader` of the broker."""

    async def read(self, subscriptions: Sequence[Subscription]) -> Mapping[Subscription, Position]:
        """Return the position of each subscription that has one.

        Raises:
            UnavailableError: the broker does not answer.
        """

    async def close(self) -> None:
        """Close the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _WaitEstimate:
    """The expected wait of a new request for a target, and the counts that the estimate is based on.

    `routed_s` is the part of `wait_s` in front of the router, where `routed` records of all models wait. Before the
    version, `lag_records` of this model wait. Each newer request for the target adds `record_s`.
    """

    wait_s: float
    routed_s: float
    routed: int
    lag_records: int
    record_s: float
    accepted: int
    accepted_here: int
    until_s: float


@dataclass(slots=True)
class _VersionBacklog:
    subscription: Subscription
    rate: ServiceRate = field(default_factory=ServiceRate)


@dataclass(slots=True)
class _TargetBacklog:
    """A pinned version or a model's split, and how many requests it `accepted` since the broker was last asked."""

    accepted: int = 0
    estimate: _WaitEstimate | None = None
    # When the first request since the last admitted one was refused.
    refused_since_s: float | None = None


class Admission:
    """Refuses requests that cannot be answered in time, before they are accepted. One event loop.

    The numbers come from the broker, so requests of other replicas and producers count too. The broker is asked while
    requests arrive or wait, and not while the API is idle. Requests of one model never count against another; models
    share only the router and its backlog.
    """

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        api: "ApiSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        catalog: "AnyCatalog",
        splits: "SplitTable",
        positions: PositionReader,
        clock: "Clock",
    ) -> None:
        self._api = api
        self._kafka = kafka
        self._names = names
        self._catalog = catalog
        self._splits = splits
        self._positions = positions
        self._clock = clock
        self._router = ServiceRate()
        self._ingress = Subscription(names.ingress[Lane.REQUESTS], names.router_group)
        self._versions: dict[tuple[str, str], _VersionBacklog] = {}
        catalog.on_change(self._watch)
        self._targets: dict[tuple[str, str | None], _TargetBacklog] = {}
        self._accepted = 0
        self._came = asyncio.Event()
        self._background = Background(self._watch_for_ever, name="backlog")

    def _watch(self, catalog: "Catalog") -> None:
        """Look at the versions of the catalogue from now on; what is known of their pace is kept."""
        names = [(version.model, version.version) for version in catalog.all_versions()]
        for gone in self._versions.keys() - names:
            forget_series((BACKLOG, SERVICE_RATE), *gone)
        self._versions = {name: self._versions.get(name) or self._backlog(name) for name in names}

    def _backlog(self, name: tuple[str, str]) -> _VersionBacklog:
        names = self._names
        return _VersionBacklog(Subscription(names.work_topic(*name, Lane.REQUESTS), names.worker_group(*name)))

    async def start(self) -> None:
        """Begin to watch."""
        self._background.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._background.close()
        await self._positions.close()

    @property
    def is_running(self) -> bool:
        """Whether the backlog is still polled."""
        return self._background.is_running

    def admit(self, model: str, version: str | None, *, within_s: float) -> None:
        """Admit and count a request that must be answered `within_s` seconds from now.

        Raises:
            OverloadedError: it would not be answered in time; the error says after how many seconds to try again.
        """
        # Also for a refused request: unless the broker is asked again, an outdated backlog would refuse for ever.
        self._came.set()
        now_s = self._clock.monotonic_s()
        target = self._target(model, version)
        estimate = target.estimate
        if estimate is None or now_s >= estimate.until_s or self._accepted - estimate.accepted >= _ESTIMATE_REQUESTS:
            estimate = target.estimate = self._estimate(model, version, now_s=now_s)
        newer, newer_here = self._accepted - estimate.accepted, target.accepted - estimate.accepted_here
        wait_s = estimate.wait_s + newer * self._router.record_s + newer_here * estimate.record_s
        limit = self._api.max_backlog_records
        is_over = estimate.lag_records + newer_here >= limit or estimate.routed + newer >= limit
        if (is_over or wait_s > within_s) and not self._is_probe(target, now_s=now_s):
            raise _refusal(
                model,
                replace(
                    estimate,
                    wait_s=wait_s,
                    routed=estimate.routed + newer,
                    lag_records=estimate.lag_records + newer_here,
                ),
                within_s=within_s,
                limit=limit,
            )
        if target.refused_since_s is not None and wait_s <= within_s:
            target.refused_since_s = None
        self._accepted += 1
        target.accepted += 1

    def _target(self, model: str, version: str | None) -> _TargetBacklog:
        found = self._targets.get((model, version))
        if found is None:
            found = self._targets[model, version] = _TargetBacklog()
        return found

    def _is_probe(self, target: _TargetBacklog, *, now_s: float) -> bool:
        """Whether to admit a request that would be refused, to learn whether the estimate still holds."""
        since_s = target.refused_since_s
        is_probe = since_s is not None and now_s - since_s >= _PROBE_INTERVAL_S
        if since_s is None or is_probe:
            target.refused_since_s = now_s
        return is_probe

    def _estimate(self, model: str, version: str | None, *, now_s: float) -> _WaitEstimate:
        """Estimate the median wait over the split's versions, so that one slow canary does not refuse all requests."""
        split = self._split_shares(model)
        of_split = self._target(model, None).accepted
        waits = []
        for name, share in ({version: 1.0} if version else split).items():
            # A version that was retired while its request was read is judged as one of which nothing is known.
            rate = (self._versions.get((model, name)) or self._backlog((model, name))).rate
            newer = self._target(model, name).accepted + int(of_split * split.get(name, 0.0))
            wait_s = rate.expected_wait_s(now_s=now_s, newer_records=newer)
            waits.append((wait_s, rate.lag_records + newer, share, rate.record_s * share))
        waits.sort()
        shares = accumulate(share for _, _, share, _ in waits)
        median = next((wait for wait, share in zip(waits, shares, strict=True) if share >= _HALF), (0.0, 0, 0.0, 0.0))
        wait_s, lag_records, _, record_s = median
        routed_s = self._router.expected_wait_s(now_s=now_s, newer_records=self._accepted)
        return _WaitEstimate(
            wait_s=routed_s + wait_s,
            routed_s=routed_s,
            routed=self._router.lag_records + self._accepted,
            lag_records=lag_records,
            record_s=record_s,
            accepted=self._accepted,
            accepted_here=self._target(model, version).accepted,
            until_s=now_s + _ESTIMATE_S,
        )

    def _split_shares(self, model: str) -> Mapping[str, float]:
        """The share of a model's unpinned requests that each of its versions gets."""
        return shares_of(self._catalog.model(model).weights(self._splits.get(model)))

    async def _watch_for_ever(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            try:
                async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                    await self._look()
            except (InferlaneError, TimeoutError) as error:
                log.warning("backlog_not_read", error=str(error), retry_s=_RETRY_S)
                self._came.set()
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(self._api.backlog_poll_s)

    async def _look(self) -> None:
        accepted = {key: target.accepted for key, target in self._targets.items()}
        watched = [self._ingress, *(version.subscription for version in self._versions.values())]
        positions = await self._positions.read(watched)
        at_s = self._clock.monotonic_s()
        # Requests that arrived while the broker was asked may already be in its answer. Counting them twice is safer.
        self._accepted -= sum(accepted.values())
        for key, target in self._targets.items():
            target.accepted -= accepted.get(key, 0)
            target.estimate = None
        if self._ingress in positions:
            self._router.note(positions[self._ingress], at_s=at_s)
        for (model, name), version in self._versions.items():
            position = positions.get(version.subscription)
            if position is None:
                # The topic was deleted, and its backlog with it.
                version.rate = ServiceRate()
                forget_series((BACKLOG, SERVICE_RATE), model, name)
                continue
            version.rate.note(position, at_s=at_s)
            BACKLOG.labels(model, name).set(position.lag_records)
            SERVICE_RATE.labels(model, name).set(version.rate.records_a_second or 0.0)
        if any(position.lag_records for position in positions.values()):
            self._came.set()


def _refusal(model: str, met: _WaitEstimate, *, within_s: float, limit: int) -> OverloadedError:
    """Return the error of a refused request; it says what it would wait for, and for how long."""
    if met.lag_records >= limit or met.routed >= limit:
        is_router = met.lag_records < limit
        return OverloadedError(
            f"{_waiting(model, met, is_router=is_router)}, the limit is {limit} (INFERLANE_MAX_BACKLOG_RECORDS); "
            "send again later, or add workers",
            retry_after_s=max(1.0, met.wait_s / 2),
        )
    is_router = met.routed_s > met.wait_s - met.routed_s
    return OverloadedError(
        f"{_waiting(model, met, is_router=is_router)}, a new one for about {met.wait_s:.1f} s, and it must be answered "
        f"within {within_s:.1f} s; send again after the seconds of Retry-After, or allow more with deadline_s",
        retry_after_s=met.wait_s - within_s,
    )


def _waiting(model: str, met: _WaitEstimate, *, is_router: bool) -> str:
    return (
        f"{met.routed} requests of all models wait for the router"
        if is_router
        else (f"{met.lag_records} requests of {model} wait")
    )
