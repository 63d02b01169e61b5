"""Terminal output of all commands.

Names, ids, messages and values come from records, clients and other people's files. None of it may steer the terminal
or be read as markup: there is no markup here at all, styles are given as `rich.text.Text`, and what would steer a
terminal is written out (`inferlane.errors.printable`) whatever it is part of.
"""

import codecs
import io
import sys
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from inferlane.errors import ConfigurationError, UnavailableError, printable

if TYPE_CHECKING:
    from rich.style import StyleType

    from inferlane.runtime.config import Settings
    from inferlane.runtime.runfile import RunRecord


# The option of every command that has its text for programs too; `write_json` writes it.
AsJson = Annotated[bool, typer.Option("--json", help="A JSON object for programs. Default: text.")]

T = TypeVar("T")
_HANDLER = "inferlane.in_ascii"


class PlainConsole(Console):
    """A console that shows text as it is: no markup, no `:emoji:`, no highlighting, no control characters."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape every text on its way out, whether it is in a table, a bar or a line."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def styled(*parts: "str | tuple[str, StyleType]") -> Text:
    """Return a line made of parts, each plain or `(text, style)`."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((printable(text), style) for text, style in pairs))


def write_json(value: object) -> None:
    """Write one JSON line to standard output.

    What would steer a terminal, or is not in the encoding of the output, is escaped, as JSON allows everywhere.

    Raises:
        ConfigurationError: standard output is closed.
    """
    if sys.stdout is None:
        raise ConfigurationError("standard output is closed, and the JSON goes there; redirect it to a file or a pipe")
    line = msgspec.json.encode(value).decode()
    encoding = sys.stdout.encoding or "utf-8"
    is_whole = line.encode(encoding, "ignore").decode(encoding) == line
    sys.stdout.write(
        "".join(char if char.isprintable() and (is_whole or char.isascii()) else _escaped(char) for char in line) + "\n"
    )


# What the commands themselves write that is not in every encoding.
_IN_ASCII = {"✓": "+", "✗": "x", "…": "...", "µ": "u", "→": "->"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Write characters that the output's encoding lacks as others, or as Python escapes them: an error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    written = (_IN_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lacking)
    return "".join(written), error.end


def write_in_any_encoding() -> None:
    """Let no character end a command that standard output or standard error cannot encode."""
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "backslashreplace"}:
            stream.reconfigure(errors=_HANDLER)


def _escaped(char: str) -> str:
    raw = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))


@contextmanager
def missing_extra_explained(doing: str, needs: frozenset[str]) -> Iterator[None]:
    """Turn the absence of one of the packages `needs`, which the extra `models` has, into an error that says so.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in needs:
            raise
        raise ConfigurationError(
            f"{doing} models needs {error.name!r}, which is not installed. "
            "Install the extra: pip install 'inferlane[models]'"
        ) from error


out = PlainConsole()
err = PlainConsole(stderr=True)


def run_work(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command does; of what is logged meanwhile, only our warnings reach the terminal.

    Raises:
        UnavailableError: a part does not answer; a note of the error has the cause that a library logged.
    """
    # Loaded as what is run loads them, not by `--help`.
    import asyncio  # noqa: PLC0415

    from inferlane.runtime.logs import logs_of_a_command  # noqa: PLC0415

    with logs_of_a_command() as lines:
        try:
            return asyncio.run(work)
        except UnavailableError as error:
            if lines.last_error:
                error.add_note(lines.last_error)
            raise


def load_settings(**overrides: object) -> "Settings":
    """Read the settings; pydantic, which takes 0.1 s to load, is loaded by commands that have settings.

    Raises:
        ConfigurationError: a value is out of its range.
    """
    from inferlane.runtime.config import load_settings as load  # noqa: PLC0415 - as the docstring says

    return load(**overrides)


def reach() -> "tuple[Settings, RunRecord | None]":
    """Return the settings of the environment, completed by those of the local stack, and that stack if it runs.

    Raises:
        ConfigurationError: a value is out of its range.
    """
    from control_plane.local.profile import attached_settings  # noqa: PLC0415 - as in `load_settings`
    from inferlane.runtime.runfile import RunFile  # noqa: PLC0415 - as above

    settings = load_settings()
    record = RunFile(settings.stack.state_dir).read()
    if record is None or not record.is_running:
        return settings, None
    return attached_settings(settings, record.environment), record


def reachable_settings() -> "Settings":
    """Return only the settings of `reach`."""
    return reach()[0]
