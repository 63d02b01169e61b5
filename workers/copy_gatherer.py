"""Gather shadow copies across batches and send them in few large writes: nobody waits for a copy."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from inferlane.contracts.kafka_record import headers_bytes
from inferlane.errors import InferlaneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.runtime.kafka.record_writer import Sender
    from inferlane.runtime.retry import Clock

log = structlog.get_logger(__name__)

_CLOSE_S = 1.0
# A copy waits for others for at most this share of the time to its deadline; the rest is for the worker that compares.
_SHARE_OF_DEADLINE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherLimits:
    """The bounds of gathered copies.

    A write is due after `rest_s`, or with `write_copies` copies or `write_bytes` bytes. Smaller limits make more
    writes, each of which costs this worker, the broker and the worker that compares about a millisecond; larger ones
    lose more copies at a kill. Above `held_copies` or `held_bytes`, those on their way included, copies are dropped:
    more is memory that an unavailable broker takes from the requests of clients.
    """

    rest_s: float = 0.5
    write_copies: int = 64
    write_bytes: int = 256 * 1024
    held_copies: int = 2_048
    held_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatheredCopy:
    """A copy, the deadline of its original in seconds since the epoch, and its size."""

    record: "OutRecord"
    deadline_s: float
    size_bytes: int

    @classmethod
    def of(cls, record: "OutRecord", *, deadline_s: float) -> "GatheredCopy":
        """Return the copy with its size: its headers hold the answer, which may be larger than the request."""
        return cls(record, deadline_s, len(record.key) + len(record.value) + headers_bytes(record.headers))


class CopyCounter(Protocol):
    """A counter of Prometheus."""

    def inc(self, amount: float = 1) -> None:
        """Count so many more."""
        ...


class CopyGatherer:
    """Sends copies in few writes. Used from one event loop.

    Never raises and never waits: a copy that finds no room, misses its deadline or cannot be written is counted as not
    sent and dropped.
    """

    def __init__(
        self,
        sender: "Sender",
        *,
        clock: "Clock",
        sent: CopyCounter,
        not_sent: CopyCounter,
        limits: GatherLimits = GatherLimits(),
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._sent = sent
        self._not_sent = not_sent
        self._limits = limits
        self._gathered: list[GatheredCopy] = []
        self._gathered_bytes = 0
        # Gathered and on their way.
        self._held = 0
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Task[None]] = set()

    def add(self, copies: "Sequence[GatheredCopy]") -> None:
        """Take copies to send soon; those that find no room are dropped."""
        limits = self._limits
        for copy in copies:
            if self._held >= limits.held_copies or self._held_bytes + copy.size_bytes > limits.held_bytes:
                self._not_sent.inc()
                continue
            self._held += 1
            self._held_bytes += copy.size_bytes
            self._gathered.append(copy)
            self._gathered_bytes += copy.size_bytes
            if len(self._gathered) >= limits.write_copies or self._gathered_bytes >= limits.write_bytes:
                self._write()
            else:
                self._write_within(self._rest_s(copy))

    async def close(self) -> None:
        """Send what was gathered, wait a moment for what is on its way, then give it up."""
        self._write()
        if self._writes:
            await asyncio.wait(self._writes, timeout=_CLOSE_S)
        for task in self._writes:
            task.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)

    def _rest_s(self, copy: GatheredCopy) -> float:
        left_s = max(0.0, copy.deadline_s - self._clock.now_s())
        return min(self._limits.rest_s, left_s * _SHARE_OF_DEADLINE)

    def _write_within(self, rest_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + rest_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(rest_s, self._write)

    def _write(self) -> None:
        """Begin to write everything that was gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gathered:
            return
        copies, self._gathered, self._gathered_bytes = self._gathered, [], 0
        task = asyncio.create_task(self._send(copies))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _send(self, copies: "Sequence[GatheredCopy]") -> None:
        now_s = self._clock.now_s()
        due = [copy.record for copy in copies if copy.deadline_s > now_s]
        sent = 0
        try:
            outcomes = await self._sender.send_each(due) if due else ()
            lost = [error for error in outcomes if error is not None]
            sent = len(due) - len(lost)
        except InferlaneError as error:
            lost = [error] * len(due)
        finally:
            self._held -= len(copies)
            self._held_bytes -= sum(copy.size_bytes for copy in copies)
            self._sent.inc(sent)
            self._not_sent.inc(len(copies) - sent)
        if lost:
            log.warning("shadow_copies_not_sent", copies=len(lost), error=str(lost[0]))
