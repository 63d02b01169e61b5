"""Find dead letters, one fetch in memory at a time, and replay them: the same request under the same id."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from msgspec import structs

from inferlane.contracts.callbacks import fresh_headers
from inferlane.contracts.dead_letters import DeadLetter, headers_of, read_dead_letter
from inferlane.contracts.kafka_record import OutRecord, check_size, format_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import FALLBACK, FALLEN_BACK_FROM, REQUEST_TYPE, ROLLOUT, RequestHeaders
from inferlane.contracts.results import NO_FAULTS_OF_A_VERSION, Accepted, Result
from inferlane.errors import DecodeError, InvalidRequestError, RecordRefusedError
from inferlane.runtime.kafka.clients import partitions_of, record_limit_bytes
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.contracts.naming import Names
    from inferlane.contracts.rollout import RolloutSpec
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import KafkaSettings, StackSettings, StoreSettings

log = structlog.get_logger(__name__)

# Headers that a replay writes anew, and headers of a trial, which it drops: a replay counts in no rollout.
_REPLACED = {"ce_type", "ce_id", "ce_attempt", "ce_deadline", "ce_time", FALLBACK, FALLEN_BACK_FROM, ROLLOUT}


class NotReplayableError(InvalidRequestError):
    """A dead letter that cannot be sent again. The message says why. Remedy: its producer sends it again."""

    code = "not_replayable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A record that is ready to be sent again, and the pending state that the API shows until it is served."""

    key: str
    record: OutRecord
    # None for bulk requests and callbacks, whose results nobody looks up by id.
    accepted: Accepted | None


def prepare(
    letter: "DeadLetter",
    api: "ApiSettings",
    kafka: "KafkaSettings",
    stack: "StackSettings",
    *,
    to_version: str | None,
    now_s: float,
) -> Replay:
    """Make a record with the same request for the router, with a new deadline; a callback is sent to its URL again.

    The id stays, `ce_attempt` counts on, and the version that it was pinned or routed to stays unless `to_version`
    names another.

    Raises:
        NotReplayableError: it is neither a request nor a callback, or was not kept whole.
        PayloadTooLargeError: it is over the limit of these settings.
    """
    original = letter.original
    if original.topic == stack.names.outcomes:
        raise NotReplayableError("it is a summary of outcomes and no request; its moment has passed")
    if letter.cut is not None:
        raise NotReplayableError(f"it was not kept whole: {letter.cut}")
    headers = headers_of(letter)
    names = stack.names
    if original.topic.partition(".retry-")[0] == names.callbacks:
        if to_version:
            raise NotReplayableError("it is a callback, whose request has ended; it has no version to choose")
        record = OutRecord(names.callbacks, original.key or b"", original.value or b"", fresh_headers(original.headers))
        return Replay(key=headers.key, record=record, accepted=None)
    lane = Lane.BULK if original.topic.endswith(f".{Lane.BULK}") else Lane.REQUESTS
    deadline_s = now_s + api.default_deadline_s
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
    topic = stack.names.ingress[lane]
    record = OutRecord(topic, original.key or headers.request_id.encode(), original.value or b"", out)
    # Check before the failed result is removed: an open request that is never sent would only expire.
    check_size(record, record_limit_bytes(kafka))
    accepted = Accepted(
        model=headers.model or stack.default_model,
        version=to_version or headers.version,
        accepted_s=now_s,
        deadline_s=deadline_s,
        caller=headers.caller,
    )
    return Replay(key=headers.key, record=record, accepted=accepted if lane is Lane.REQUESTS else None)


class Replayer:
    """Send replays. Used from one event loop."""

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        api: "ApiSettings",
        kafka: "KafkaSettings",
        store_settings: "StoreSettings",
        stack: "StackSettings",
        *,
        store: ResultStore,
        producer: BatchProducer,
        clock: "Clock",
    ) -> None:
        self._api = api
        self._kafka = kafka
        self._store_settings = store_settings
        self._stack = stack
        self._store = store
        self._producer = producer
        self._clock = clock

    async def send(self, letter: "DeadLetter", *, to_version: str | None, is_routed: bool = False) -> Replay:
        """Send the dead letter's request again; returns once the broker has acknowledged it.

        `is_routed` sends it directly to the topic of `to_version`, not through the router.

        A request of the request lane is `QUEUED` again from here on: its failed result is removed, which
        only an operator's replay may do (docs/adr/0004-replay-reopens-a-failed-request.md).

        Raises:
            NotReplayableError: it is not a whole request, has been answered or cancelled since, or its topic does not
                take it; then it is `FAILED` again.
            PayloadTooLargeError: it is over the limit of these settings.
            UnavailableError: the store or the broker does not answer; the dead letter can be replayed again.
        """
        replay = prepare(letter, self._api, self._kafka, self._stack, to_version=to_version, now_s=self._clock.now_s())
        record = replay.record
        if is_routed and to_version:
            names = self._stack.names
            lane = next(lane for lane, topic in names.ingress.items() if topic == record.topic)
            model = headers_of(letter).model or self._stack.default_model
            record = structs.replace(record, topic=names.work_topic(model, to_version, lane))
        if replay.accepted is not None:
            ttl_s = self._api.default_deadline_s + self._store_settings.result_ttl_s
            held = await self._store.reopen(replay.key, replay.accepted, ttl_s=ttl_s)
            if held is not None:
                code = f" ({held.error_code})" if held.error_code else ""
                raise NotReplayableError(f"it ended {held.status.value}{code} since; nothing is left to answer")
        try:
            await self._producer.send([record])
        except (InvalidRequestError, RecordRefusedError) as error:
            if replay.accepted is not None:
                # It was removed above, and a request that nobody has would be open until its deadline.
                await self._store.put([Result.failed(headers_of(letter), error, now_s=self._clock.now_s())])
            raise NotReplayableError(f"it was not taken: {error}") from error
        return replay


@asynccontextmanager
async def open_replayer(
    api: "ApiSettings", kafka: "KafkaSettings", store_settings: "StoreSettings", stack: "StackSettings"
) -> AsyncGenerator[Replayer, None]:
    """Open a replayer with its own connections for the duration of the block.

    Raises:
        UnavailableError: the broker does not answer.
    """
    producer = BatchProducer(kafka)
    async with connect(store_settings.redis_url) as redis:
        store = ResultStore(
            redis, redis_url=store_settings.redis_url, result_ttl_s=store_settings.result_ttl_s, names=stack.names
        )
        await producer.start()
        try:
            yield Replayer(api, kafka, store_settings, stack, store=store, producer=producer, clock=SystemClock())
        finally:
            await producer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """The dead letters that a command selects. `ids`: request ids or offsets of dead letters; empty means any."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    model: str | None = None
    version: str | None = None
    since_s: float

    def matches(self, letter: DeadLetter, headers: RequestHeaders) -> bool:
        """Return whether the dead letter is one of them."""
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
    kafka: "KafkaSettings", names: "Names", selection: DeadLetterFilter, *, on_skipped: "Callable[[DecodeError], None]"
) -> AsyncGenerator[FoundDeadLetter, None]:
    """Yield the dead letters that match, oldest first in each partition; pass other records to `on_skipped`.

    Raises:
        UnavailableError: the broker does not answer.
    """
    partitions = await partitions_of(kafka, names.dead_letters)
    async with aclosing(read_since(kafka, partitions, since_s=selection.since_s)) as batches:
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


async def retry_failed(
    kafka: "KafkaSettings", names: "Names", replayer: Replayer, *, rollout: str, spec: "RolloutSpec", since_s: float
) -> int:
    """Send unanswered requests that a rollout's candidate failed to the stable version; return how many.

    The records go to the topics of the stable version, pinned to it, under their ids. May be called again: requests
    that were answered since are left alone.

    Raises:
        UnavailableError: the broker or the store does not answer; call it again.
    """
    selection = DeadLetterFilter(model=spec.model, version=spec.candidate, since_s=since_s)
    sent: set[str] = set()
    async with aclosing(matching_dead_letters(kafka, names, selection, on_skipped=lambda _: None)) as letters:
        async for found in letters:
            key, headers = found.headers.key, found.headers
            if headers.rollout != rollout or key in sent or found.letter.cause.reason in NO_FAULTS_OF_A_VERSION:
                continue
            try:
                await replayer.send(found.letter, to_version=spec.stable, is_routed=True)
            except InvalidRequestError as error:
                log.warning("failed_request_not_retried", request_id=headers.request_id, error=str(error))
                continue
            sent.add(key)
    log.info("failed_requests_retried", rollout=rollout, to_version=spec.stable, requests=len(sent))
    return len(sent)
