"""What waits before each hop, and how fast it comes and goes. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.offsets import Position, Subscription

if TYPE_CHECKING:
    from dashboards.live.api import ModelInfo
    from inferlane.contracts.naming import Names

Positions = Mapping[Subscription, Position]

# Offsets are committed a few times a second, in jumps: a shorter time shows the jumps, a longer one is late.
_RATE_OVER_S = 5.0


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, and records a second that come and go; no rate before two looks that are some time apart."""

    lag_records: int = 0
    arriving_per_s: float | None = None
    leaving_per_s: float | None = None


def router_queue(names: "Names") -> tuple[Subscription, ...]:
    """The topics that the router reads."""
    return tuple(Subscription(topic, names.router_group) for topic in names.ingress.values())


def version_queue(names: "Names", model: str, version: str) -> tuple[Subscription, ...]:
    """The topics of both lanes of a version."""
    group = names.worker_group(model, version)
    return tuple(Subscription(names.work_topic(model, version, lane), group) for lane in Lane)


def letters_queue(names: "Names") -> Subscription:
    """The dead letters, by a group in which nobody commits: its lag is what the topic holds."""
    return Subscription(names.dead_letters, names.dashboard_group)


def subscriptions(names: "Names", models: "Iterable[ModelInfo]") -> list[Subscription]:
    """Everything to ask the broker for."""
    queues = [version_queue(names, model.name, version.version) for model in models for version in model.versions]
    return [*router_queue(names), *(subscription for queue in queues for subscription in queue), letters_queue(names)]


class Speeds:
    """The last positions, and the speeds that follow from them."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Positions]] = deque()

    def note(self, positions: Positions, *, at_s: float) -> None:
        """Note where every group stands; `at_s` is monotonic."""
        if self._seen and _went_back(self._seen[-1][1], positions):
            # A broker that forgot everything: differences across its restart mean nothing.
            self._seen.clear()
        self._seen.append((at_s, positions))
        # One look that is old enough is kept to compare with.
        while len(self._seen) > 2 and self._seen[1][0] <= at_s - _RATE_OVER_S:  # noqa: PLR2004 - first and last
            self._seen.popleft()

    def queue(self, parts: Iterable[Subscription]) -> Queue:
        """The sum of these topics."""
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
    """All of them as one."""
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
