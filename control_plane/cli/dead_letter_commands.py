"""`inferlane dead-letters`: list, show and replay requests that could not be served."""

import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli.console import err, out, reachable_settings, run_work, write_json

# Reading the topic loads the Kafka and Redis clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.errors import DecodeError
    from inferlane.runtime.config import Settings
    from inferlane.runtime.dead_letter_replay import DeadLetterFilter, FoundDeadLetter
    from inferlane.runtime.settings import StackSettings

app = typer.Typer(no_args_is_help=True, help="List, show and replay requests that could not be served.")

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Request ids or offsets of dead letters. Default: all that match the options."),
]
Reason = Annotated[str | None, typer.Option(help="Only dead letters with this reason, e.g. model_error. Default: any.")]
Model = Annotated[str | None, typer.Option(help="Only requests of this model. Default: any.")]
Version = Annotated[
    str | None, typer.Option(help="Only requests that were routed or pinned to this version. Default: any.")
]
Since = Annotated[
    str | None,
    typer.Option(help="Only dead letters since then: 30s, 15m, 2h, 7d ago, or an RFC 3339 time. Default: all."),
]


@app.command("list")
def list_dead_letters(
    reason: Reason = None,
    model: Model = None,
    version: Version = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line. Default: a table.")] = False,
) -> None:
    """List dead letters, the newest last, and how many there are for each reason."""
    from control_plane.dead_letter_text import since_seconds
    from inferlane.runtime.dead_letter_replay import DeadLetterFilter

    selection = DeadLetterFilter(reason=reason, model=model, version=version, since_s=since_seconds(since))
    letters = run_work(_read(reachable_settings(), selection))
    if as_json:
        _write_json(letters[-limit:])
        return
    table = Table("offset", "written", "reason", "request id", "model", "version", "attempts", "detail", box=None)
    for found in letters[-limit:]:
        letter, headers = found.letter, found.headers
        table.add_row(
            str(letter.offset),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.dead_lettered_s)),
            letter.cause.reason,
            headers.request_id,
            headers.model or "-",
            headers.version or "-",
            str(letter.cause.attempts),
            letter.cause.detail.partition("\n")[0],
        )
    out.print(table)
    reasons = Counter(found.letter.cause.reason for found in letters)
    counts = ", ".join(f"{count:,} {name}" for name, count in reasons.most_common()) or "none"
    out.print(f"{len(letters):,} dead letters: {counts}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The request id, or the offset of the dead letter.")],
) -> None:
    """Show the dead letters of a request: reason, position, headers, start of the value. Exit 1 if there is none."""
    from control_plane.dead_letter_text import since_seconds
    from inferlane.runtime.dead_letter_replay import DeadLetterFilter

    selection = DeadLetterFilter(ids=frozenset({name}), since_s=since_seconds(None))
    letters = run_work(_read(reachable_settings(), selection, whole=True))
    for found in letters:
        _print(found)
    if not letters:
        err.print(f"no dead letter {name!r}; `inferlane dead-letters list` shows what there is")
        raise typer.Exit(1)


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    ids: Ids = None,
    reason: Reason = None,
    model: Model = None,
    version: Version = None,
    since: Since = None,
    to_version: Annotated[
        str | None, typer.Option(help="Pin the requests to this version. Default: the one that they had.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Required to replay every dead letter.")] = False,
) -> None:
    """Send requests again under their ids, with a new deadline. Exit 1 if one of them could not be sent.

    A request is sent once, however many dead letters it has. A request that was answered since is skipped.
    """
    from control_plane.dead_letter_text import since_seconds
    from inferlane.runtime.dead_letter_replay import DeadLetterFilter

    if not (ids or reason or model or version or since or every):
        raise typer.BadParameter("name request ids, narrow it down with an option, or say --all")
    settings = reachable_settings()
    selection = DeadLetterFilter(
        ids=frozenset(ids or ()), reason=reason, model=model, version=version, since_s=since_seconds(since)
    )
    # The newest dead letter of each request.
    letters = {found.headers.key: found for found in run_work(_read(settings, selection))}
    if to_version is not None:
        _refuse_unknown_version(settings.stack, {found.headers.model for found in letters.values()}, to_version)
    names = {name for found in letters.values() for name in (found.headers.request_id, str(found.letter.offset))}
    missing = sorted(selection.ids - names)
    if missing:
        out.print(f"no dead letters of: {', '.join(missing)}")
    if dry_run:
        for found in letters.values():
            out.print(f"{found.headers.request_id}  {found.letter.cause.reason}  {found.letter.cut or ''}".rstrip())
        out.print(f"would send {len(letters):,} requests; nothing was sent")
    elif not run_work(_replay(settings, selection, letters, to_version)):
        raise typer.Exit(1)
    if missing:
        raise typer.Exit(1)


async def _replay(
    settings: "Settings",
    selection: "DeadLetterFilter",
    letters: "Mapping[str, FoundDeadLetter]",
    to_version: str | None,
) -> bool:
    """Send, report, and return whether all were sent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from inferlane.errors import InvalidRequestError, UnavailableError
    from inferlane.runtime.dead_letter_replay import matching_dead_letters, open_replayer

    offsets = {found.letter.offset for found in letters.values()}
    sent = refused = 0
    failure: UnavailableError | None = None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        bar = progress.add_task("replaying", total=len(offsets))
        try:
            # Read once more rather than kept: the values of a month may not fit in memory.
            second_read = matching_dead_letters(
                settings.kafka, settings.stack.names, selection, on_skipped=lambda _: None
            )
            async with (
                open_replayer(settings.api, settings.kafka, settings.store, settings.stack) as replayer,
                aclosing(second_read) as stream,
            ):
                async for found in stream:
                    if found.letter.offset not in offsets:
                        continue
                    try:
                        await replayer.send(found.letter, to_version=to_version)
                        sent += 1
                    except InvalidRequestError as error:
                        refused += 1
                        out.print(f"not sent: {found.headers.request_id} (offset {found.letter.offset}): {error}")
                    progress.advance(bar)
        except UnavailableError as error:
            failure = error
    out.print(f"sent {sent:,} requests again, each with {settings.api.default_deadline_s:g} s to be answered")
    if refused:
        out.print(f"{refused:,} could not be sent, for the reasons above")
    if failure is not None:
        out.print(f"stopped with {len(offsets) - sent - refused:,} left; the same command goes on from here: {failure}")
    return sent == len(offsets)


async def _read(settings: "Settings", selection: "DeadLetterFilter", *, whole: bool = False) -> "list[FoundDeadLetter]":
    from inferlane.runtime.dead_letter_replay import matching_dead_letters

    async with aclosing(
        matching_dead_letters(settings.kafka, settings.stack.names, selection, on_skipped=_say_skipped)
    ) as stream:
        letters = [found if whole else found.without_value() async for found in stream]
    # The topic has one partition where we made it; others may have given it more.
    return sorted(letters, key=lambda found: found.letter.dead_lettered_s)


def _say_skipped(error: "DecodeError") -> None:
    err.print(f"skipped: {error}", style="yellow")


def _refuse_unknown_version(stack: "StackSettings", models: "set[str | None]", version: str) -> None:
    """Return if each of these models has the version.

    Raises:
        UnknownModelError: one has not; nothing was sent.
    """
    from models.store_reader import load_catalog

    catalog = load_catalog(stack.models_dir, default_model=stack.default_model)
    for model in models:
        catalog.model(model).version(version)


def _write_json(letters: "list[FoundDeadLetter]") -> None:
    for found in letters:
        letter, headers = found.letter, found.headers
        line = {
            "offset": letter.offset,
            "dead_lettered_s": letter.dead_lettered_s,
            "reason": letter.cause.reason,
            "detail": letter.cause.detail,
            "stack": letter.cause.stack.splitlines(),
            "attempts": letter.cause.attempts,
            "request_id": headers.request_id,
            "model": headers.model,
            "version": headers.version,
            "topic": letter.original.topic,
            "replayable": letter.cut is None,
        }
        write_json(line)


def _print(found: "FoundDeadLetter") -> None:
    from control_plane.dead_letter_text import preview

    letter = found.letter
    original, cause = letter.original, letter.cause
    table = Table(show_header=False, box=None)
    table.add_row("request id", found.headers.request_id)
    table.add_row("reason", cause.reason)
    table.add_row("detail", cause.detail)
    table.add_row("attempts", str(cause.attempts))
    table.add_row("raised at", cause.stack or "-")
    table.add_row("letter", f"offset {letter.offset}, {time.ctime(letter.dead_lettered_s)}")
    table.add_row("was at", f"{original.topic}, partition {original.partition}, offset {original.offset}")
    table.add_row("replayable", f"no: {letter.cut}" if letter.cut else "yes")
    for name, value in original.headers:
        table.add_row(f"header {name}", (value or b"").decode(errors="backslashreplace"))
    table.add_row(f"value, {len(original.value or b''):,} bytes", preview(found))
    out.print(table)
