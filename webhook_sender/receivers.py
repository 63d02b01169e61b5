"""The state of the receivers: which are failing, which are gone, and how many calls each has. No I/O.

A receiver that is slow or down must not delay the others, so no callback waits for it: a callback without a free call
goes to the topics of retries. Nor must any number of them: receivers that never answered have a share of the calls.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock

MAX_CALLS = 1_024
"""The most calls at once."""
# How long a callback may wait for a call of its receiver to end. Shorter sends more callbacks through the retries,
# longer delays the callbacks of other receivers behind it.
_ROOM_WITHIN_S = 2.0
# How long a URL that answered 410 is not called again.
_GONE_S = 3_600.0
# The most receivers and URLs that are remembered. Forgetting one costs a failing call.
_MOST_KNOWN = 10_000


class Room(StrEnum):
    """Whether a receiver may be called now."""

    FREE = "free"
    # It has as many calls as it may have.
    BUSY = "busy"
    # Its last call failed, and another one finds out whether it is back.
    FAILING = "failing"


class _Standing(StrEnum):
    """What the last call of a receiver says about it."""

    PROVEN = "proven"
    NEW = "new"
    FAILING = "failing"


# The most calls to receivers of this standing and those below it.
_SHARES = {_Standing.PROVEN: MAX_CALLS, _Standing.NEW: MAX_CALLS * 3 // 4, _Standing.FAILING: MAX_CALLS // 4}


class _Calls:
    """The calls under way, by the standing of their receivers."""

    def __init__(self) -> None:
        self._count = dict.fromkeys(_Standing, 0)

    @contextmanager
    def of(self, standing: _Standing) -> Iterator[Room]:
        """Count one call while the block runs, if the yielded value is `FREE`."""
        counted = [one for one in _Standing if _SHARES[one] >= _SHARES[standing]]
        if any(self._count[one] >= _SHARES[one] for one in counted):
            yield Room.BUSY
            return
        for one in counted:
            self._count[one] += 1
        try:
            yield Room.FREE
        finally:
            for one in counted:
                self._count[one] -= 1


@dataclass(slots=True)
class _Receiver:
    calls: asyncio.Semaphore
    users: int = 0
    is_failing: bool = False
    is_probed: bool = False
    # When it may be called again, as it said itself; on the monotonic clock.
    rests_until_s: float = 0.0

    def unless_failing(self, room: Room) -> Room:
        """Return `room`, or that the receiver is failing."""
        return Room.FAILING if self.is_failing else room


class Receivers:
    """The receivers of one process. Used from one event loop."""

    def __init__(self, *, calls_per_host: int, clock: "Clock") -> None:
        self._calls_per_host = calls_per_host
        self._clock = clock
        self._known: OrderedDict[str, _Receiver] = OrderedDict()
        # Those whose last call succeeded, the longest ago first.
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._calls = _Calls()
        self._gone: OrderedDict[str, float] = OrderedDict()

    @asynccontextmanager
    async def room(self, host: str) -> AsyncIterator[Room]:
        """Reserve one call to the receiver while the block runs, if the yielded value is `FREE`."""
        receiver = self._known.setdefault(host, _Receiver(asyncio.Semaphore(self._calls_per_host)))
        receiver.users += 1
        try:
            if receiver.is_failing:
                async with self._probe(receiver) as room:
                    yield room
            elif not await self._acquired(receiver):
                yield receiver.unless_failing(Room.BUSY)
            else:
                try:
                    # Another call may have failed while this one waited.
                    if receiver.unless_failing(Room.FREE) is Room.FAILING:
                        yield Room.FAILING
                    else:
                        with self._calls.of(_Standing.PROVEN if host in self._proven else _Standing.NEW) as room:
                            yield room
                finally:
                    receiver.calls.release()
        finally:
            receiver.users -= 1
            self._forget(host, receiver)

    @asynccontextmanager
    async def _probe(self, receiver: _Receiver) -> AsyncIterator[Room]:
        """Let one call at a time find out whether a failing receiver is back."""
        if receiver.is_probed or self._clock.monotonic_s() < receiver.rests_until_s:
            yield Room.FAILING
            return
        receiver.is_probed = True
        try:
            with self._calls.of(_Standing.FAILING) as room:
                yield room
        finally:
            receiver.is_probed = False

    async def _acquired(self, receiver: _Receiver) -> bool:
        try:
            async with asyncio.timeout(_ROOM_WITHIN_S):
                await receiver.calls.acquire()
        except TimeoutError:
            return False
        return True

    def note(self, host: str, *, succeeded: bool, rest_s: float = 0.0) -> None:
        """Note how a call of the receiver ended, and for how long it gets no other one."""
        receiver = self._known.get(host)
        if receiver is not None:
            receiver.is_failing = not succeeded
            # A call that ends beside it, and is asked for no rest, ends none.
            asked_before_s = 0.0 if succeeded else receiver.rests_until_s
            receiver.rests_until_s = max(asked_before_s, self._clock.monotonic_s() + rest_s)
            self._known.move_to_end(host)
        self._proven.pop(host, None)
        if succeeded:
            self._proven[host] = None
            if len(self._proven) > _MOST_KNOWN:
                self._proven.popitem(last=False)

    def note_gone(self, url: str) -> None:
        """Note that the receiver wants no more calls of this URL."""
        self._gone[url] = self._clock.monotonic_s() + _GONE_S
        while len(self._gone) > _MOST_KNOWN:
            self._gone.popitem(last=False)

    def is_gone(self, url: str) -> bool:
        """Return whether the receiver said so within the last hour."""
        until_s = self._gone.get(url)
        return until_s is not None and self._clock.monotonic_s() < until_s

    def _forget(self, host: str, receiver: _Receiver) -> None:
        """Forget a receiver that works and is not called, and of too many that fail the one that was called first."""
        if receiver.users == 0 and not receiver.is_failing:
            self._known.pop(host, None)
        if len(self._known) > _MOST_KNOWN:
            oldest = next(iter(self._known))
            if self._known[oldest].users == 0:
                del self._known[oldest]
