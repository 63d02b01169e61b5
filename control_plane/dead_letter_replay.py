"""Find dead letters, one fetch in memory at a time, and replay them: the same request under the same id."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from inferlane.contracts.callbacks import fresh_headers
from inferlane.contracts.dead_letters import DeadLetter, headers_of, read_dead_letter
from inferlane.contracts.kafka_record import OutRecord, check_size, format_time, parse_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import REQUEST_TYPE, RequestHeaders
from inferlane.contracts.results import Accepted
from inferlane.contracts.wire.v2 import decode_request
from inferlane.errors import DecodeError, InvalidRequestError
from inferlane.runtime.kafka.clients import partitions_of, record_limit_bytes
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.redis.result_store import ResultStore, connect
from inferlane.runtime.retry import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.runtime.config import Settings
    from inferlane.runtime.retry import Clock

# What a replay says anew.
_REPLACED = {"ce_type", "ce_id", "ce_attempt", "ce_deadline", "ce_time"}


class NotReplayableError(InvalidRequestError):
    """A dead letter that cannot be sent again. The message says why. Remedy: its producer sends it again."""

    code = "not_replayable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A record that is ready to be sent again, and the pending result that the API shows until it is served."""

    key: str
    record: OutRecord
    # None where nobody looks a result up by its id: of bulk requests and of callbacks.
    accepted: Accepted | None


def prepare(letter: "DeadLetter", settings: "Settings", *, to_version: str | None, now_s: float) -> Replay:
    """Make a record with the same request for the router, with a new deadline; a callback is sent to its URL again.

    The id stays, `ce_attempt` counts on, and the version that it was pinned or routed to stays unless `to_version`
    names another.

    Raises:
        NotReplayableError: it was no request and no callback, or was not kept whole.
        PayloadTooLargeError: it is over the limit of these settings.
    """
    original = letter.original
    if original.topic == settings.names.outcomes:
        raise NotReplayableError("it is a summary of outcomes and no request; its moment has passed")
    if letter.cut is not None:
        raise NotReplayableError(f"it was not kept whole: {letter.cut}")
    headers = headers_of(letter)
    names = settings.names
    if original.topic.partition(".retry-")[0] == names.callbacks:
        if to_version:
            raise NotReplayableError("it is a callback, whose request has ended; it has no version to choose")
        record = OutRecord(names.callbacks, original.key or b"", original.value or b"", fresh_headers(original.headers))
        return Replay(key=headers.key, record=record, accepted=None)
    lane = Lane.BULK if original.topic.endswith(f".{Lane.BULK}") else Lane.REQUESTS
    deadline_s = now_s + settings.default_deadline_s
    replaced = _REPLACED | ({"ce_modelversion"} if to_version else set())
    out = [(name, value) for name, value in original.headers if name not in replaced]
    out += [
        REQUEST_TYPE,
        ("ce_id", headers.request_id.encode()),
        ("ce_attempt", str(letter.cause.attempts + 1).encode()),
        ("ce_time", format_time(now_s)),
        ("ce_deadline", format_time(deadline_s)),
    ]
    if to_version:
        out.append(("ce_modelversion", to_version.encode()))
    topic = settings.names.ingress[lane]
    record = OutRecord(topic, original.key or headers.request_id.encode(), original.value or b"", out)
    # Before the failed result is taken away: a request that is open and never sent would only expire.
    check_size(record, record_limit_bytes(settings))
    accepted = Accepted(
        model=headers.model or settings.default_model,
        version=to_version or headers.version,
        accepted_s=now_s,
        deadline_s=deadline_s,
        caller=headers.caller,
    )
    return Replay(key=headers.key, record=record, accepted=accepted if lane is Lane.REQUESTS else None)


class Replayer:
    """Send replays. Used from one event loop."""

    def __init__(self, settings: "Settings", *, store: ResultStore, producer: BatchProducer, clock: "Clock") -> None:
        self._settings = settings
        self._store = store
        self._producer = producer
        self._clock = clock

    async def send(self, letter: "DeadLetter", *, to_version: str | None) -> Replay:
        """Send the dead letter's request again; returns once the broker has acknowledged it.

        A request of the request lane is `QUEUED` again from here on: its result without an answer is taken away, which
        only an operator's replay may do (docs/adr/0004-replay-reopens-a-failed-request.md).

        Raises:
            NotReplayableError: it is no whole request, or has been answered or taken back since.
            PayloadTooLargeError: it is over the limit of these settings.
            UnavailableError: the store or the broker does not answer; the dead letter can be replayed again.
        """
        replay = prepare(letter, self._settings, to_version=to_version, now_s=self._clock.now_s())
        if replay.accepted is not None:
            ttl_s = self._settings.default_deadline_s + self._settings.result_ttl_s
            held = await self._store.reopen(replay.key, replay.accepted, ttl_s=ttl_s)
            if held is not None:
                code = f" ({held.error_code})" if held.error_code else ""
                raise NotReplayableError(f"it ended {held.status.value}{code} since; nothing is left to answer")
        await self._producer.send([replay.record])
        return replay


@asynccontextmanager
async def open_replayer(settings: "Settings") -> AsyncGenerator[Replayer, None]:
    """Open a replayer with its own connections for the duration of the block.

    Raises:
        UnavailableError: the broker does not answer.
    """
    producer = BatchProducer(settings)
    async with connect(settings.redis_url) as redis:
        store = ResultStore(
            redis, redis_url=settings.redis_url, result_ttl_s=settings.result_ttl_s, names=settings.names
        )
        await producer.start()
        try:
            yield Replayer(settings, store=store, producer=producer, clock=SystemClock())
        finally:
            await producer.close()


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
        """Return a copy without value and headers, small enough to keep thousands."""
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


def preview(found: FoundDeadLetter) -> str:
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
