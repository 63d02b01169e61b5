"""Writes to the work topics: each gets its records in order, and a topic that fails does not delay the others."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import InferlaneError, UnavailableError
from inferlane.runtime.kafka.record_writer import Sender, write_each

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.runtime.retry import Retrier

log = structlog.get_logger(__name__)

# How long a topic may fail while others succeed before its records are refused. Shorter fails requests that a leader
# election would delay only; longer holds more records in memory and delays the commits of the whole lane.
_PATIENCE_S = 30.0
# Bytes that may wait for failing topics. Above it the lane waits too, at most for the patience.
_MAX_PARKED_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _Destination:
    # One write at a time, in the order of the fetched batches: it keeps the order of the records of a key.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    failing_since_s: float | None = None
    waiting_bytes: int = 0


class Destinations:
    """Writes records to each topic separately. Used from one event loop."""

    def __init__(self, sender: Sender, retrier: "Retrier") -> None:
        self._sender = sender
        self._retrier = retrier
        self._destinations: dict[str, _Destination] = {}
        self._written_s: dict[str, float] = {}

    def is_failing(self, topic: str) -> bool:
        """Return whether the last write to the topic failed or is late."""
        destination = self._destinations.get(topic)
        return destination is not None and destination.failing_since_s is not None

    def note_slow(self, topic: str) -> None:
        """Note that a write is late or failed: until one succeeds, nobody should wait for this topic."""
        destination = self._destinations[topic]
        if destination.turn.locked() and destination.failing_since_s is None:
            destination.failing_since_s = time.monotonic()
            log.warning("destination_failing", topic=topic)

    @property
    def has_room(self) -> bool:
        """Whether more records may wait for failing topics."""
        waiting = (one.waiting_bytes for one in self._destinations.values() if one.failing_since_s is not None)
        return sum(waiting) < _MAX_PARKED_BYTES

    async def write(self, topic: str, records: "Sequence[OutRecord]") -> Sequence[InferlaneError | None]:
        """Return for each record None if it is written, else the error for which it is given up.

        Raises:
            NotServedError: the broker refuses this client.
        """
        destination = self._destinations.setdefault(topic, _Destination())
        size_bytes = sum(len(record.value) for record in records)
        destination.waiting_bytes += size_bytes
        try:
            if destination.turn.locked() and self._is_hopeless(topic, destination):
                # Another write to this topic is being retried already.
                return [UnavailableError(_hopeless(topic))] * len(records)
            async with destination.turn:
                outcomes = await write_each(
                    self._sender,
                    self._retrier,
                    records,
                    stage=f"forward:{topic}",
                    gives_up=lambda: self._gives_up(topic, destination),
                )
        finally:
            destination.waiting_bytes -= size_bytes
        self._note_outcomes(topic, destination, outcomes)
        return outcomes

    def _gives_up(self, topic: str, destination: _Destination) -> bool:
        """Note a failed write; return whether to stop retrying."""
        self.note_slow(topic)
        return self._is_hopeless(topic, destination)

    def _note_outcomes(self, topic: str, destination: _Destination, outcomes: Sequence[InferlaneError | None]) -> None:
        if any(error is None for error in outcomes):
            self._written_s[topic] = time.monotonic()
        if destination.failing_since_s is not None and not any(isinstance(e, UnavailableError) for e in outcomes):
            destination.failing_since_s = None
            log.info("destination_settled", topic=topic)

    def _is_hopeless(self, topic: str, destination: _Destination) -> bool:
        """Whether the topic has failed for the whole patience while others succeeded: the broker is available then."""
        since_s = destination.failing_since_s
        if since_s is None or time.monotonic() - since_s < _PATIENCE_S:
            return False
        return any(at_s > since_s for other, at_s in self._written_s.items() if other != topic)


def _hopeless(topic: str) -> str:
    return (
        f"{topic} accepted no record for {_PATIENCE_S:g} s while other topics did; check its partitions and "
        "replicas, then send the request again or replay its dead letter"
    )
