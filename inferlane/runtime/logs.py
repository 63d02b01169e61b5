"""Structured logs: events with fields, JSON for machines and colour for people."""

import io
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import structlog

from inferlane.quoting import printable
from inferlane.runtime.log_limits import EventLimit, RecordLimit

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings


def configure_logs(settings: "Settings", *, service: str) -> None:
    """Send structlog and the standard library's logs to standard error in one format.

    `auto` is JSON unless standard error is a terminal. `service` is bound to every event.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    finish: list[structlog.typing.Processor] = (
        [_show_plainly, structlog.dev.ConsoleRenderer(exception_formatter=_format_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    stream = sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level]
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
    # Libraries speak only when something is wrong; their INFO is one line a poll.
    root.setLevel(max(level, logging.WARNING))


class _Lines(structlog.PrintLogger):
    """Writes lines and never fails: a disk that is full, or a reader that is gone, must not end the work."""

    def msg(self, message: str) -> None:
        """Write the line, if it can be written."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _show_plainly(_logger: object, _method: str, event: "structlog.typing.EventDict") -> "structlog.typing.EventDict":
    """What others wrote must not steer the terminal; JSON escapes it by itself."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _format_traceback(stream: TextIO, exc_info: "structlog.typing.ExcInfo") -> None:
    """The traceback without the values of its frames, which are passwords and payloads."""
    structlog.dev.plain_traceback(text := io.StringIO(), exc_info)
    stream.write(printable(text.getvalue()))
