"""How often one state is logged: when it begins, and once an interval while it lasts, with a count of the rest.

A broker that is away fails every fetch of every consumer, 50 times a second, each with the same words. One line says as
much, and the disk stays free for the others.
"""

import logging
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import structlog

INTERVAL_S = 10.0
# Libraries repeat themselves, our own events name what they are about: a few of one kind are worth their lines.
_OF_A_LIBRARY = 1
_OF_OURS = {"debug": 1_000_000, "info": 50}
_OF_OUR_FAULTS = 5
# Of one event whatever it says, so that words that always differ are bounded too.
_OF_AN_EVENT = 100
# States that are remembered. Too few forget one that still lasts, too many hold memory for words that come once.
_STATES = 1_000
_STATE_CHARS = 300
# What differs from line to line and makes no other state.
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}[0-9a-f-]*|\d+(?:\.\d+)?")


@dataclass(slots=True)
class _Seen:
    since_s: float
    logged: int = 0
    left_out: int = 0


class RepeatLimit:
    """Counts the lines of each state. Safe for threads."""

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._lock = threading.Lock()

    def let_through(self, state: str, *, most: int) -> int | None:
        """None if this line of `state` is one too many in its interval, else how many were left out before it."""
        now_s = time.monotonic()
        with self._lock:
            seen = self._seen.get(state)
            if seen is None:
                seen = self._seen[state] = _Seen(now_s)
                if len(self._seen) > _STATES:
                    self._seen.popitem(last=False)
            left_out = 0
            if now_s - seen.since_s >= self._interval_s:
                left_out, seen.left_out, seen.logged, seen.since_s = seen.left_out, 0, 0, now_s
                self._seen.move_to_end(state)
            if seen.logged >= most:
                seen.left_out += 1
                return None
            seen.logged += 1
            return left_out


class EventLimit:
    """A processor of structlog that drops events that repeat a state too often."""

    def __init__(self) -> None:
        self._states, self._events = RepeatLimit(), RepeatLimit()

    def __call__(
        self, _logger: object, method: str, event: "structlog.typing.EventDict"
    ) -> "structlog.typing.EventDict":
        """Return the event, with `left_out` where others like it were dropped before.

        Raises:
            structlog.DropEvent: it is one too many.
        """
        name = f"{method} {event.get('event')}"
        said = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"timestamp", "exc_info"})
        most = _OF_OURS.get(method, _OF_OUR_FAULTS)
        left_out = self._states.let_through(_state(f"{method} {said}"), most=most)
        if left_out is None or self._events.let_through(name, most=max(most, _OF_AN_EVENT)) is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event


class RecordLimit(logging.Filter):
    """The same for the standard library's loggers, which are those of libraries."""

    def __init__(self) -> None:
        super().__init__()
        self._states, self._loggers = RepeatLimit(), RepeatLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        said = record.getMessage()
        left_out = self._states.let_through(_state(f"{record.name} {record.levelno} {said}"), most=_OF_A_LIBRARY)
        name = f"{record.name} {record.levelno}"
        if left_out is None or self._loggers.let_through(name, most=_OF_AN_EVENT) is None:
            return False
        if left_out:
            record.msg, record.args = f"{said} (and {left_out} more like it left out)", ()
        return True


def _state(said: str) -> str:
    return _VARYING.sub("#", said[: 2 * _STATE_CHARS])[:_STATE_CHARS]
