"""A broker, a router and pools as numbers that move with a clock: what admission sees of them, without any of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inferlane.contracts.naming import Lane
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.offsets import Position, Subscription
from tests.support.fakes.clock import FakeClock

Pool = tuple[str, str]
BULK_SHARE = 0.2


@dataclass
class Work:
    """One topic: what came, what was finished, and offsets that no consumer ever commits (transaction markers)."""

    came: int = 0
    done: int = 0
    markers: int = 0
    # The part of a record that was worked on when the last step ended.
    begun: float = 0.0

    @property
    def waiting(self) -> int:
        return self.came - self.done

    def work(self, records: float) -> None:
        self.begun = min(self.begun + records, float(self.waiting))
        self.done += int(self.begun)
        self.begun -= int(self.begun)


@dataclass
class SimulatedQueue:
    """`rates` are the records a second that each pool finishes; bulk that waits takes its share of them."""

    settings: Settings
    clock: FakeClock
    rates: dict[Pool, float]
    router_rate: float = 50_000.0
    ingress: Work = field(default_factory=Work)
    bulk: dict[Pool, Work] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = {pool: Work() for pool in self.rates}
        self._to_route: deque[Pool] = deque()

    def send(self, pool: Pool) -> None:
        """A request that the API accepted, and that the router will give to this pool."""
        self.ingress.came += 1
        self._to_route.append(pool)

    def waiting_for(self, pool: Pool) -> int:
        return self.work[pool].waiting + sum(routed == pool for routed in self._to_route)

    def step(self, seconds: float) -> None:
        self.clock.advance(seconds)
        before = self.ingress.done
        self.ingress.work(self.router_rate * seconds)
        for _ in range(self.ingress.done - before):
            self.work[self._to_route.popleft()].came += 1
        for pool, rate in self.rates.items():
            bulk = self.bulk.get(pool)
            bulk_share = BULK_SHARE if bulk is not None and bulk.waiting else 0.0
            if bulk is not None:
                bulk.work(rate * seconds * bulk_share)
            self.work[pool].work(rate * seconds * (1 - bulk_share))

    async def read(self, subscriptions: Sequence[Subscription]) -> Mapping[Subscription, Position]:
        names = self.settings.stack.names
        topics = {names.ingress[Lane.REQUESTS]: self.ingress}
        topics |= {names.work_topic(*pool, Lane.REQUESTS): work for pool, work in self.work.items()}
        return {
            subscription: Position(
                committed=topics[subscription.topic].done,
                end=topics[subscription.topic].came + topics[subscription.topic].markers,
            )
            for subscription in subscriptions
            if subscription.topic in topics
        }

    async def close(self) -> None: ...
