"""`inferlane dead-letters`: look at what could not be served, and send it again."""

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from inferlane.cli.reaching import reachable_settings

if TYPE_CHECKING:
    from inferlane.config import Settings
    from inferlane.dead_letters import DeadLetter

app = typer.Typer(no_args_is_help=True, help="Look at what could not be served, and send it again.")
# Details and values hold brackets, which are no markup.
out = Console(highlight=False, markup=False)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PREVIEW_BYTES = 2_000
_SECONDS_OF_30_DAYS = 30 * 86_400

Ids = Annotated[list[str] | None, typer.Argument(help="Request ids; none means every letter that the options leave.")]
Reason = Annotated[str | None, typer.Option(help="Only letters with this reason, e.g. model_error.")]
Model = Annotated[str | None, typer.Option(help="Only requests of this model.")]
Version = Annotated[str | None, typer.Option(help="Only requests that were routed or pinned to this version.")]
Since = Annotated[
    str | None, typer.Option(help="Only letters since then: 30s, 15m, 2h, 7d ago, or an RFC 3339 time. Default: all.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters a command is about."""

    ids: frozenset[str]
    reason: str | None
    model: str | None
    version: str | None
    since_s: float

    def holds(self, letter: "DeadLetter") -> bool:
        """Whether the letter is one of them."""
        from inferlane.replaying import headers_of  # noqa: PLC0415 - keep `inferlane --help` fast

        headers = headers_of(letter)
        return (
            (not self.ids or headers.request_id in self.ids)
            and self.reason in (None, letter.cause.reason)
            and self.model in (None, headers.model)
            and self.version in (None, headers.version)
        )


@app.command("list")
def list_letters(
    reason: Reason = None,
    model: Model = None,
    version: Version = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 50,
) -> None:
    """List dead letters, the newest last, and how many there are for each reason."""
    from inferlane.replaying import headers_of  # noqa: PLC0415 - keep `inferlane --help` fast

    letters = _read(_wanted((), reason, model, version, since))
    table = Table("offset", "buried", "reason", "request id", "model", "version", "attempts", "detail", box=None)
    for letter in letters[-limit:]:
        headers = headers_of(letter)
        table.add_row(
            str(letter.offset),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.buried_s)),
            letter.cause.reason,
            headers.request_id,
            headers.model or "-",
            headers.version or "-",
            str(letter.cause.attempts),
            letter.cause.detail.splitlines()[0] if letter.cause.detail else "",
        )
    out.print(table)
    reasons = Counter(letter.cause.reason for letter in letters)
    counts = ", ".join(f"{count:,} {name}" for name, count in reasons.most_common()) or "none"
    out.print(f"{len(letters):,} dead letters: {counts}")


@app.command()
def show(request_id: Annotated[str, typer.Argument(help="The request id, or the offset of the letter.")]) -> None:
    """Show one letter whole: why, where, its headers and the head of its value. Exit 1 when there is none."""
    letters = _read(_wanted((), None, None, None, None))
    found = [letter for letter in letters if request_id in (_id_of(letter), str(letter.offset))]
    if not found:
        out.print(f"no dead letter {request_id!r}; `inferlane dead-letters list` shows what there is")
        raise typer.Exit(1)
    for letter in found:
        _print(letter)


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    ids: Ids = None,
    reason: Reason = None,
    model: Model = None,
    version: Version = None,
    since: Since = None,
    to_version: Annotated[str | None, typer.Option(help="Pin the requests to this version instead.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, send nothing.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Needed to replay every letter that there is.")] = False,
) -> None:
    """Send requests again under their ids, with a fresh deadline. Exit 1 when one of them could not be sent.

    A request is sent once however many letters it has. One that has been answered since is left alone.
    """
    if not (ids or reason or model or version or since or every):
        raise typer.BadParameter("name request ids, narrow it down with an option, or say --all")
    if to_version is not None:
        _refuse_unknown_version(model, to_version)
    letters = {_id_of(letter): letter for letter in _read(_wanted(ids or (), reason, model, version, since))}
    if dry_run:
        for request_id, letter in letters.items():
            out.print(f"{request_id}  {letter.cause.reason}  from {letter.original.topic}")
        out.print(f"would send {len(letters):,} requests; nothing was sent")
        return
    sent, refused = asyncio.run(_replay(reachable_settings(), list(letters.values()), to_version))
    for line in refused:
        out.print(f"not sent: {line}", style="yellow")
    out.print(f"sent {sent:,} requests again, {len(refused):,} not")
    missing = set(ids or ()) - set(letters)
    if missing:
        out.print(f"no dead letters of: {', '.join(sorted(missing))}")
    if refused or missing:
        raise typer.Exit(1)


async def _replay(
    settings: "Settings", letters: "Sequence[DeadLetter]", to_version: str | None
) -> tuple[int, list[str]]:
    from inferlane.clock import SystemClock  # noqa: PLC0415 - keep `inferlane --help` fast
    from inferlane.kafka.producing import BatchProducer  # noqa: PLC0415 - as above
    from inferlane.replaying import NotReplayableError, Replayer  # noqa: PLC0415 - as above
    from inferlane.result_store import ResultStore, connect  # noqa: PLC0415 - as above

    sent = 0
    refused = []
    producer = BatchProducer(settings)
    async with connect(settings.redis_url) as redis:
        store = ResultStore(redis, redis_url=settings.redis_url, result_ttl_s=settings.result_ttl_s)
        await producer.start()
        try:
            replayer = Replayer(settings, store=store, producer=producer, clock=SystemClock())
            for letter in track(letters, "replaying", console=Console(stderr=True), disable=not sys.stderr.isatty()):
                try:
                    await replayer.send(letter, to_version=to_version)
                    sent += 1
                except NotReplayableError as error:
                    refused.append(f"{_id_of(letter)} (offset {letter.offset}): {error}")
        finally:
            await producer.close()
    return sent, refused


def _read(wanted: Wanted) -> "list[DeadLetter]":
    letters = asyncio.run(_read_all(reachable_settings(), wanted.since_s))
    return [letter for letter in letters if wanted.holds(letter)]


async def _read_all(settings: "Settings", since_s: float) -> "list[DeadLetter]":
    from aiokafka import TopicPartition  # noqa: PLC0415 - keep `inferlane --help` fast

    from inferlane.dead_letters import read_dead_letter  # noqa: PLC0415 - as above
    from inferlane.errors import DecodeError  # noqa: PLC0415 - as above
    from inferlane.kafka.reading import read_since  # noqa: PLC0415 - as above
    from inferlane.topics import DEAD_LETTERS  # noqa: PLC0415 - as above

    letters = []
    async with aclosing(read_since(settings, [TopicPartition(DEAD_LETTERS, 0)], since_s=since_s)) as batches:
        async for records in batches:
            for record in records:
                try:
                    letters.append(read_dead_letter(record))
                except DecodeError as error:
                    out.print(f"skipped: {error}", style="yellow")
    return letters


def _wanted(
    ids: Sequence[str], reason: str | None, model: str | None, version: str | None, since: str | None
) -> Wanted:
    return Wanted(ids=frozenset(ids), reason=reason, model=model, version=version, since_s=_since_s(since))


def _since_s(since: str | None) -> float:
    from inferlane.record import parse_time  # noqa: PLC0415 - keep `inferlane --help` fast

    now_s = time.time()
    if since is None:
        # Longer than the topic keeps them.
        return now_s - _SECONDS_OF_30_DAYS * 2
    if found := _DURATION.fullmatch(since):
        return now_s - float(found.group(1)) * _UNIT_S[found.group(2)]
    try:
        return parse_time(since.encode())
    except ValueError as error:
        raise typer.BadParameter(f"--since {since!r} is neither 30s, 15m, 2h, 7d nor an RFC 3339 time") from error


def _refuse_unknown_version(model: str | None, version: str) -> None:
    from models.catalog import load_catalog  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    load_catalog(settings.models_dir, default_model=settings.default_model).model(model).version(version)


def _id_of(letter: "DeadLetter") -> str:
    from inferlane.replaying import headers_of  # noqa: PLC0415 - keep `inferlane --help` fast

    return headers_of(letter).request_id


def _print(letter: "DeadLetter") -> None:
    original, cause = letter.original, letter.cause
    table = Table(show_header=False, box=None)
    table.add_row("request id", _id_of(letter))
    table.add_row("reason", cause.reason)
    table.add_row("detail", cause.detail)
    table.add_row("attempts", str(cause.attempts))
    table.add_row("raised at", cause.stack or "-")
    table.add_row("letter", f"offset {letter.offset}, {time.ctime(letter.buried_s)}")
    table.add_row("was at", f"{original.topic}, partition {original.partition}, offset {original.offset}")
    table.add_row("replayable", letter.cut or "yes")
    for name, value in original.headers:
        table.add_row(f"header {name}", value.decode(errors="backslashreplace"))
    value = original.value or b""
    table.add_row(f"value, {len(value):,} bytes", value[:_PREVIEW_BYTES].decode(errors="backslashreplace"))
    out.print(table)
