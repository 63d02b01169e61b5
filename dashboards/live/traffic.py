"""The queue before each hop, its rates, and the headline that follows from them. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.offsets import Position, Subscription

if TYPE_CHECKING:
    from dashboards.live.api_client import ApiModel
    from inferlane.contracts.naming import Names

Positions = Mapping[Subscription, Position]

# Offsets are committed a few times a second, in jumps: a shorter time shows the jumps, a longer one is late.
_RATE_OVER_S = 5.0


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The lag of a queue and its rates in records per second; rates are None until there are two observations."""

    lag_records: int = 0
    arriving_per_s: float | None = None
    leaving_per_s: float | None = None


def router_queue(names: "Names") -> tuple[Subscription, ...]:
    """Return the topics that the router reads."""
    return tuple(Subscription(topic, names.router_group) for topic in names.ingress.values())


def version_queue(names: "Names", model: str, version: str) -> tuple[Subscription, ...]:
    """Return the topics of both lanes of a version."""
    group = names.worker_group(model, version)
    return tuple(Subscription(names.work_topic(model, version, lane), group) for lane in Lane)


def dead_letter_queue(names: "Names") -> Subscription:
    """Return the dead-letter topic with a group that never commits, so that its lag is the topic's size."""
    return Subscription(names.dead_letters, names.dashboard_group)


def subscriptions(names: "Names", models: "Iterable[ApiModel]") -> list[Subscription]:
    """Return every topic and group to read from the broker."""
    queues = [version_queue(names, model.name, version.version) for model in models for version in model.versions]
    return [
        *router_queue(names),
        *(subscription for queue in queues for subscription in queue),
        dead_letter_queue(names),
    ]


class QueueRates:
    """The last positions, and the rates that follow from them."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Positions]] = deque()

    def note(self, positions: Positions, *, at_s: float) -> None:
        """Record the positions of every group; `at_s` is monotonic."""
        if self._seen and _went_back(self._seen[-1][1], positions):
            # A broker that forgot everything: differences across its restart mean nothing.
            self._seen.clear()
        self._seen.append((at_s, positions))
        # One look that is old enough is kept to compare with.
        while len(self._seen) > 2 and self._seen[1][0] <= at_s - _RATE_OVER_S:  # noqa: PLR2004 - first and last
            self._seen.popleft()

    def queue(self, parts: Iterable[Subscription]) -> Queue:
        """Return the sum over these topics."""
        if not self._seen:
            return Queue()
        (then_s, then), (now_s, now) = self._seen[0], self._seen[-1]
        known = [part for part in parts if part in now]
        lag_records = sum(now[part].lag_records for part in known)
        if now_s <= then_s or any(part not in then for part in known):
            return Queue(lag_records=lag_records)
        elapsed_s = now_s - then_s
        return Queue(
            lag_records=lag_records,
            arriving_per_s=sum(now[part].end - then[part].end for part in known) / elapsed_s,
            leaving_per_s=sum(now[part].committed - then[part].committed for part in known) / elapsed_s,
        )


def total(queues: Iterable[Queue]) -> Queue:
    """Return the sum of the queues."""
    queues = list(queues)
    arriving = [queue.arriving_per_s for queue in queues if queue.arriving_per_s is not None]
    leaving = [queue.leaving_per_s for queue in queues if queue.leaving_per_s is not None]
    return Queue(
        lag_records=sum(queue.lag_records for queue in queues),
        arriving_per_s=sum(arriving) if arriving else None,
        leaving_per_s=sum(leaving) if leaving else None,
    )


def _went_back(before: Positions, after: Positions) -> bool:
    return any(part in after and after[part].end < position.end for part, position in before.items())


# Fewer waiting records than this are a batch on its way, not a backlog.
_LEAST_BACKLOG = 50
# A backlog that is worked off within this long hurts nobody.
_SHORT_WAIT_S = 2.0
_ERRORS_WARN = 0.01
_ERRORS_BAD = 0.1
_IDLE_PER_S = 0.05


class Tone(StrEnum):
    """The severity of the headline."""

    IDLE = "idle"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """The headline of the page, and a sentence that says more."""

    tone: Tone
    title: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The facts behind the headline; shares are of 1, versions are named `model version`."""

    GROWTH_OVER_S: ClassVar[float] = 15.0

    api_error: str | None = None
    broker_error: str | None = None
    finished_per_s: float = 0.0
    lag_records: int = 0
    lag_records_before: int | None = None
    without_workers: tuple[str, ...] = ()
    error_shares: Mapping[str, float]
    error_share: float | None = None
    slowest_p95_ms: float = 0.0
    restarting: tuple[str, ...] = ()
    # What is not served, each with its reason.
    unusable: tuple[str, ...] = ()


def headline_of(signs: Signs) -> Headline:
    """Return the headline of the worst problem."""
    return _broken(signs) or _failing(signs) or _behind(signs) or _unserved(signs) or _well(signs)


def _broken(signs: Signs) -> Headline | None:
    if signs.api_error:
        return Headline(tone=Tone.BAD, title="The API does not answer", detail=signs.api_error)
    if signs.broker_error:
        return Headline(tone=Tone.BAD, title="The broker does not answer", detail=signs.broker_error)
    if signs.without_workers:
        names = ", ".join(signs.without_workers)
        return Headline(
            tone=Tone.BAD, title="Requests wait and no worker is there", detail=f"Start workers of {names}."
        )
    if signs.restarting:
        return Headline(
            tone=Tone.WARN,
            title="A process died and is started again",
            detail=f"{', '.join(signs.restarting)}. What it held is redelivered.",
        )
    return None


def _failing(signs: Signs) -> Headline | None:
    share = signs.error_share or 0.0
    if share < _ERRORS_WARN or not signs.error_shares:
        return None
    worst = max(signs.error_shares, key=lambda name: signs.error_shares[name])
    return Headline(
        tone=Tone.BAD if share >= _ERRORS_BAD else Tone.WARN,
        title=f"{share:.1%} of the answers are errors",
        detail=f"Worst is {worst} with {signs.error_shares[worst]:.1%} over the last minute.",
    )


def _behind(signs: Signs) -> Headline | None:
    drained_s = signs.lag_records / signs.finished_per_s if signs.finished_per_s > _IDLE_PER_S else None
    if signs.lag_records < _LEAST_BACKLOG or (drained_s is not None and drained_s < _SHORT_WAIT_S):
        return None
    waiting = f"{signs.lag_records:,} requests wait"
    if drained_s is None:
        return Headline(tone=Tone.BAD, title=f"{waiting} and none is finished", detail="`inferlane doctor` says why.")
    if signs.lag_records_before is not None and signs.lag_records > signs.lag_records_before:
        grown = f"{signs.lag_records - signs.lag_records_before:,} more than {signs.GROWTH_OVER_S:.0f} s ago"
        return Headline(
            tone=Tone.WARN,
            title="The backlog grows",
            detail=f"{waiting}, {grown}; {signs.finished_per_s:,.0f}/s are finished.",
        )
    return Headline(
        tone=Tone.WARN,
        title="A backlog is worked off",
        detail=f"{waiting}, about {drained_s:,.0f} s of work at {signs.finished_per_s:,.0f}/s.",
    )


def _unserved(signs: Signs) -> Headline | None:
    if not signs.unusable:
        return None
    count = len(signs.unusable)
    return Headline(
        tone=Tone.WARN,
        title=f"{count} {'version is' if count == 1 else 'versions are'} not served, the others are",
        detail=" · ".join(signs.unusable),
    )


def _well(signs: Signs) -> Headline:
    if signs.finished_per_s <= _IDLE_PER_S:
        return Headline(tone=Tone.IDLE, title="Ready and idle", detail="No request in the last seconds.")
    waits = f"{signs.lag_records:,} waiting" if signs.lag_records else "nothing waits"
    return Headline(
        tone=Tone.GOOD,
        title="All is well",
        detail=f"{signs.finished_per_s:,.0f} requests/s, p95 {signs.slowest_p95_ms:,.0f} ms, {waits}.",
    )
