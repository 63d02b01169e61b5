"""Sending dead letters again: the same request under the same id, so that whoever asks for it gets the new answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferlane.errors import DecodeError, InvalidRequestError
from inferlane.kafka.producing import OutRecord
from inferlane.record import REQUEST_TYPE, RequestHeaders, default_headers, format_time, read_headers
from inferlane.results import Accepted
from inferlane.topics import INGRESS, OUTCOMES, Lane

if TYPE_CHECKING:
    from inferlane.clock import Clock
    from inferlane.config import Settings
    from inferlane.dead_letters import DeadLetter
    from inferlane.kafka.producing import BatchProducer
    from inferlane.result_store import ResultStore

# What a replay says anew.
_REPLACED = {"ce_type", "ce_id", "ce_attempt", "ce_deadline", "ce_time"}


class NotReplayableError(InvalidRequestError):
    """A dead letter that cannot be sent again. Remedy: the message says why; its producer must send it anew."""

    code = "not_replayable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A record that is ready to be sent again, and what the API must know of it meanwhile."""

    request_id: str
    lane: Lane
    record: OutRecord
    accepted: Accepted


def headers_of(letter: "DeadLetter") -> RequestHeaders:
    """The headers of the buried request, or the defaults under which it was answered."""
    try:
        return read_headers(letter.original)
    except DecodeError:
        return default_headers(letter.original)


def prepare(letter: "DeadLetter", settings: "Settings", *, to_version: str | None, now_s: float) -> Replay:
    """Make the record that asks for the same thing again, through the router, with a fresh deadline.

    The id stays, `ce_attempt` counts on, and the version that it was pinned or routed to stays unless `to_version`
    names another.

    Raises:
        NotReplayableError: it was no request, or was not kept whole.
    """
    original = letter.original
    if original.topic == OUTCOMES:
        raise NotReplayableError("it is a summary of outcomes and no request; its moment has passed")
    if letter.cut is not None:
        raise NotReplayableError(f"it was not kept whole: {letter.cut}")
    headers = headers_of(letter)
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
    return Replay(
        request_id=headers.request_id,
        lane=lane,
        record=OutRecord(INGRESS[lane], original.key or headers.request_id.encode(), original.value or b"", out),
        accepted=Accepted(
            model=headers.model or settings.default_model,
            version=to_version or headers.version,
            accepted_s=now_s,
            deadline_s=deadline_s,
        ),
    )


class Replayer:
    """Sends replays. One event loop."""

    def __init__(
        self, settings: "Settings", *, store: "ResultStore", producer: "BatchProducer", clock: "Clock"
    ) -> None:
        self._settings = settings
        self._store = store
        self._producer = producer
        self._clock = clock

    async def send(self, letter: "DeadLetter", *, to_version: str | None) -> Replay:
        """Send the letter's request again; returns when the broker has it.

        A request of the request lane is `QUEUED` again from here on: its `FAILED` result is taken away, which only an
        operator's replay may do (docs/adr/0004-replay-reopens-a-failed-request.md).

        Raises:
            NotReplayableError: it is no whole request, or has been answered since.
            UnavailableError: the store or the broker does not answer; the letter may be replayed again.
        """
        replay = prepare(letter, self._settings, to_version=to_version, now_s=self._clock.now_s())
        if replay.lane is Lane.REQUESTS:
            ttl_s = self._settings.default_deadline_s + self._settings.result_ttl_s
            status = await self._store.reopen(replay.request_id, replay.accepted, ttl_s=ttl_s)
            if status is not None:
                raise NotReplayableError(f"it ended {status.value} since; nothing is left to answer")
        await self._producer.send([replay.record])
        return replay
