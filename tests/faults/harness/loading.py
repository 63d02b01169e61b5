"""The steady load: clients that ask in every way, and that come again for what they were promised."""

import asyncio
import random
import time
from collections import Counter

from inferlane.errors import InferlaneError
from tests.faults.harness.http_ways import HttpWays
from tests.faults.harness.ledger import Ledger
from tests.faults.harness.plan import Plan
from tests.faults.harness.questions import Oracle, Way
from tests.faults.harness.system import System
from tests.faults.harness.topic_ways import TopicWays

_FOLLOWERS = 6
_SHARES = {Way.HTTP_WAIT: 40, Way.HTTP_ASYNC: 20, Way.REQUESTS: 20, Way.BULK: 20}
_POLL_S = 0.2


class Load:
    """Asks at a steady rate until it is told to stop. One event loop."""

    def __init__(self, plan: Plan, system: System, oracle: Oracle) -> None:
        self._plan = plan
        self.oracle = oracle
        self.ledger = Ledger()
        draw = random.Random(f"{plan.seed} load")
        self._draw = draw
        self.http = HttpWays(system, self.ledger, oracle, draw)
        self.topics = TopicWays(system.settings, self.ledger, oracle, draw)
        self._stop = asyncio.Event()
        self._next_turn_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to ask."""
        self.ledger.last_accepted_s = time.time()
        self._tasks = [asyncio.create_task(self.http.follow_for_ever()) for _ in range(_FOLLOWERS)]
        self._tasks.append(asyncio.create_task(self.topics.read_for_ever()))
        self._clients = [asyncio.create_task(self._client()) for _ in range(self._plan.clients)]

    async def stop_asking(self) -> None:
        """Let each client finish its call, and send the repeats that were held back."""
        self._stop.set()
        await asyncio.gather(*self._clients)
        await self.topics.repeat_all()

    async def settle(self, within_s: float) -> None:
        """Return when everything accepted is answered, or the time is over."""
        deadline_s = time.monotonic() + within_s
        while (self.ledger.pending or self.http.following) and time.monotonic() < deadline_s:
            self._check()
            await asyncio.sleep(_POLL_S)
        self.ledger.mark_time(time.time())

    async def close(self) -> None:
        """Stop coming for results."""
        for task in [*self._tasks, *self._clients]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._clients, return_exceptions=True)
        await self.http.close()
        await self.topics.close()

    async def in_flight(self) -> None:
        """Return when something that was accepted is not answered yet."""
        while not self.ledger.pending:
            self._check()
            await asyncio.sleep(_POLL_S / 10)

    async def reach(self, requests: int) -> None:
        """Return when that many requests were accepted."""
        while sum(self.counts().values()) < requests:
            self._check()
            await asyncio.sleep(_POLL_S)

    async def cut_client(self) -> None:
        """Close the connection of somebody who waits."""
        await self.http.cut()

    def counts(self) -> Counter[Way]:
        """Accepted requests by their way in."""
        return Counter(entry.way for entry in self.ledger.accepted())

    def _check(self) -> None:
        """Raise what a part of the load died of, or that nobody is let in: a load that stands still proves nothing."""
        for task in [*self._tasks, *self._clients]:
            if task.done() and not self._stop.is_set():
                task.result()
                raise InferlaneError("a part of the load ended by itself")
        refused_s = time.time() - self.ledger.last_accepted_s
        if not self._stop.is_set() and refused_s > self._plan.grace_s:
            raise InferlaneError(f"nothing was accepted for {refused_s:.0f} s: {dict(self.http.refused)} by status")

    async def _client(self) -> None:
        ways, weights = zip(*_SHARES.items(), strict=True)
        while not self._stop.is_set():
            await self._turn()
            (way,) = self._draw.choices(ways, weights)
            question = self.oracle.ask(self._draw)
            if way in (Way.HTTP_WAIT, Way.HTTP_ASYNC):
                await self.http.ask(way, question)
                continue
            request_id = await self.topics.ask(way, question)
            if way is Way.REQUESTS:
                self.http.follow(request_id)

    async def _turn(self) -> None:
        """Wait for the next place in the steady rate; places that nobody could take are not made up for."""
        now_s = time.monotonic()
        turn_s = self._next_turn_s = max(now_s, self._next_turn_s + 1 / self._plan.rate_per_s)
        await asyncio.sleep(turn_s - now_s)
