"""Which dead letters a command is about, read without holding more than one fetch of them in memory."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from inferlane.contracts.dead_letters import DeadLetter, headers_of, read_dead_letter
from inferlane.contracts.record import RequestHeaders, parse_time
from inferlane.contracts.wire.v2 import decode_request
from inferlane.errors import DecodeError
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.topic_reader import read_since

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.runtime.config import Settings

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Longer than the topic keeps them.
_ALL_S = 60 * 86_400
_PREVIEW_BYTES = 2_000
_PREVIEW_VALUES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters a command is about. `ids`: request ids or offsets of dead letters; empty means any."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    model: str | None = None
    version: str | None = None
    since_s: float

    def matches(self, letter: DeadLetter, headers: RequestHeaders) -> bool:
        """Whether the dead letter is one of them."""
        return (
            (not self.ids or not self.ids.isdisjoint((headers.request_id, str(letter.offset))))
            and self.reason in (None, letter.cause.reason)
            and self.model in (None, headers.model)
            and self.version in (None, headers.version)
        )


@dataclass(frozen=True, slots=True)
class FoundDeadLetter:
    """A dead letter that matches the filter, with the headers of its request."""

    letter: DeadLetter
    headers: RequestHeaders

    def without_value(self) -> "FoundDeadLetter":
        """The same with nothing of what may be large, to be kept by the thousand."""
        original = replace(self.letter.original, value=None, headers=())
        return FoundDeadLetter(replace(self.letter, original=original), self.headers)


async def matching_dead_letters(
    settings: "Settings", selection: DeadLetterFilter, *, on_skipped: "Callable[[DecodeError], None]"
) -> AsyncGenerator[FoundDeadLetter, None]:
    """Yield the dead letters that match, oldest first in each partition; records that are none go to `on_skipped`.

    Raises:
        UnavailableError: the broker does not answer.
    """
    partitions = await partitions_of(settings, settings.names.dead_letters)
    async with aclosing(read_since(settings, partitions, since_s=selection.since_s)) as batches:
        async for records in batches:
            for record in records:
                try:
                    letter = read_dead_letter(record)
                except DecodeError as error:
                    on_skipped(error)
                    continue
                headers = headers_of(letter)
                if selection.matches(letter, headers):
                    yield FoundDeadLetter(letter, headers)


def since_seconds(since: str | None) -> float:
    """The moment that `--since` names, in seconds since the epoch; without it, before any letter that is still kept.

    Raises:
        typer.BadParameter: it names none.
    """
    now_s = time.time()
    if since is None:
        return now_s - _ALL_S
    if found := _DURATION.fullmatch(since):
        return max(0.0, now_s - float(found.group(1)) * _UNIT_S[found.group(2)])
    try:
        return parse_time(since.encode())
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"--since {since!r} is neither 30s, 15m, 2h, 7d nor an RFC 3339 time") from error


def preview(found: FoundDeadLetter) -> str:
    """The head of the value for a person: text as it is, binary tensors by name, shape and first numbers."""
    value, json_length = found.letter.original.value or b"", found.headers.json_length
    if json_length is not None:
        try:
            tensors = decode_request(value, json_length).tensors
        except DecodeError:
            pass
        else:
            return "\n".join(
                f"{name} {array.dtype} {list(array.shape)}: {array.ravel()[:_PREVIEW_VALUES].tolist()}"
                + (" …" if array.size > _PREVIEW_VALUES else "")
                for name, array in tensors.items()
            )
    return value[:_PREVIEW_BYTES].decode(errors="backslashreplace") + (" …" if len(value) > _PREVIEW_BYTES else "")
