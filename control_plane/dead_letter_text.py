"""Dead letters on a terminal: the time of `--since`, and the start of a value."""

import re
import time
from typing import TYPE_CHECKING

import typer

from inferlane.contracts.kafka_record import parse_time
from inferlane.contracts.wire.v2 import decode_request
from inferlane.errors import DecodeError

if TYPE_CHECKING:
    from inferlane.runtime.dead_letter_replay import FoundDeadLetter

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Longer than the topic keeps them.
_ALL_S = 60 * 86_400
_PREVIEW_BYTES = 2_000
_PREVIEW_VALUES = 8


def since_seconds(since: str | None) -> float:
    """Return the time of `--since` in seconds since the epoch; without it, a time before any retained dead letter.

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


def preview(found: "FoundDeadLetter") -> str:
    """Return the start of the value: text as it is, binary tensors by name, shape and first numbers."""
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
