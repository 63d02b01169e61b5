"""Structured logs: events with fields, JSON for machines and colour for people."""

import io
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import structlog

from inferlane.errors import clipped, printable

if TYPE_CHECKING:
    from inferlane.runtime.settings import StackSettings

INTERVAL_S = 10.0
# The most lines of one state in an interval. Libraries repeat theirs; ours name their subject, so a few are useful.
_OF_A_LIBRARY = 1
_OF_OURS = {"debug": 1_000_000, "info": 50}
_OF_OUR_FAULTS = 5
# The most lines of one event, so that texts that always differ are bounded too.
_OF_AN_EVENT = 100
# The states that are remembered. Too few forget one that still lasts, too many take memory for texts that occur once.
_STATES = 1_000
_STATE_CHARS = 300
# Parts that differ from line to line without being another state.
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}[0-9a-f-]*|\d+(?:\.\d+)?")


@dataclass(slots=True)
class _RepeatCount:
    since_s: float
    logged: int = 0
    left_out: int = 0


class RepeatLimit:
    """Counts the lines of each state. Safe for threads."""

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._seen: OrderedDict[str, _RepeatCount] = OrderedDict()
        self._lock = threading.Lock()

    def let_through(self, state: str, *, most: int) -> int | None:
        """Return None to drop this line of `state`, else the number of lines that were dropped before it."""
        now_s = time.monotonic()
        with self._lock:
            seen = self._seen.get(state)
            if seen is None:
                seen = self._seen[state] = _RepeatCount(now_s)
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


class LastError:
    """The error of something that is tried again and again: it is worth a line when it begins and when it changes."""

    def __init__(self) -> None:
        self._said = ""

    def is_news(self, error: Exception) -> bool:
        """Return whether the error says something else than the last one, and remember it."""
        before, self._said = self._said, str(error)
        return self._said != before

    def clear(self) -> None:
        """Forget it, because a try has succeeded."""
        self._said = ""


class EventLimit:
    """A processor of structlog that drops events that repeat a state too often."""

    def __init__(self) -> None:
        self._states, self._events = RepeatLimit(), RepeatLimit()

    def __call__(
        self, _logger: object, method: str, event: "structlog.typing.EventDict"
    ) -> "structlog.typing.EventDict":
        """Return the event, with `left_out` where others like it were dropped before.

        Raises:
            structlog.DropEvent: the limit is reached.
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
    """The same limit for the standard library's loggers, which libraries use."""

    def __init__(self) -> None:
        super().__init__()
        self._states, self._loggers = RepeatLimit(), RepeatLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be written."""
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


def configure_logs(stack: "StackSettings", *, service: str) -> None:
    """Send structlog and the standard library's logs to standard error in one format.

    `auto` is JSON unless standard error is a terminal. `service` is bound to every event.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    console = stack.log_format == "console" or (stack.log_format == "auto" and sys.stderr.isatty())
    finish: list[structlog.typing.Processor] = (
        [_show_plainly, structlog.dev.ConsoleRenderer(exception_formatter=_format_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    stream = sys.stderr
    level = logging.getLevelNamesMapping()[stack.log_level]
    structlog.configure(
        processors=[EventLimit(), *shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(stream)
    handler.addFilter(RecordLimit())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries log only problems; their INFO would be one line a poll.
    root.setLevel(max(level, logging.WARNING))


class LibraryLines(logging.Handler):
    """Keeps what libraries log off the terminal, and the last error of it: they often raise one without its cause."""

    def __init__(self) -> None:
        super().__init__()
        self.last_error = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Note the record. What asyncio says of a task that nobody waited for is shown: nothing else tells of it."""
        if record.name == "asyncio" and logging.lastResort is not None:
            logging.lastResort.handle(record)
        elif record.levelno >= logging.ERROR and not record.exc_info:
            self.last_error = clipped(record.getMessage())


@contextmanager
def logs_of_a_command() -> Iterator[LibraryLines]:
    """While a command runs, send our warnings to standard error and keep the lines of libraries off the terminal.

    Standard output is for what the command has to say, which programs read.
    """
    root, lines = logging.getLogger(), LibraryLines()
    before = structlog.get_config() if structlog.is_configured() else None
    stream = sys.stderr
    structlog.configure(
        processors=[
            EventLimit(),
            structlog.stdlib.add_log_level,
            _show_plainly,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_format_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    root.addHandler(lines)
    try:
        yield lines
    finally:
        root.removeHandler(lines)
        if before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**before)


class _Lines(structlog.PrintLogger):
    """Writes lines and never fails: a full disk or a closed pipe must not end the process."""

    def msg(self, message: str) -> None:
        """Write the line, if it can be written."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _show_plainly(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """Return what others wrote must not steer the terminal; JSON escapes it by itself."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _format_traceback(stream: TextIO, exc_info: "structlog.typing.ExcInfo") -> None:
    """The traceback without the values of its frames, which are passwords and payloads."""
    structlog.dev.plain_traceback(text := io.StringIO(), exc_info)
    stream.write(printable(text.getvalue()))
