"""Delivering terminal results: dead letters first, then the result where its reader looks, then the wake-up.

Only after `deliver` returns may the offset of the request be committed.
"""

from collections.abc import Mapping, Sequence

import msgspec
import structlog

from inferlane.dead_letters import Cause, dead_letter
from inferlane.errors import (
    DecodeError,
    InferlaneError,
    InvalidInputError,
    ModelError,
    PayloadTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnusableVersionError,
)
from inferlane.kafka.producing import BatchProducer, OutRecord
from inferlane.metrics.consuming import DEAD_LETTERS
from inferlane.metrics.labels import UNKNOWN, bounded
from inferlane.naming import Lane, Names
from inferlane.record import (
    BINARY_CONTENT,
    JSON_CONTENT,
    JSON_LENGTH,
    POSITION,
    RESULT_TYPE,
    SPEC_VERSION,
    TRACE_PARENT,
    KafkaRecord,
)
from inferlane.result_store import ResultStore
from inferlane.results import Result
from inferlane.retrying import Retrier

log = structlog.get_logger(__name__)

# Of what a record can die.
_DEADLY = (
    DecodeError,
    InferlaneError,
    InvalidInputError,
    ModelError,
    PayloadTooLargeError,
    UnknownModelError,
    UnusableVersionError,
)
_DEADLY_CODES = frozenset(error.code for error in _DEADLY)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal result and where it goes.

    `reply_to` is the API instance that waits. `to_topic` also (or, for bulk, only) sends it to `inferlane.results`.
    `dead` is the original record when it goes to the dead letters as well, `stack` where its error was raised.
    `trace_parent` is the request's W3C header, which its result on the topic has too. `source` and `position` are what
    a foreign producer said of itself, and where its record lay: there they tell whose the result is.
    """

    result: Result
    lane: Lane
    reply_to: str | None
    batch_id: str | None
    to_topic: bool
    dead: KafkaRecord | None = None
    stack: str = ""
    trace_parent: bytes | None = None
    source: bytes = b""
    position: str | None = None


class Delivery:
    """Delivers answers, and tries again for as long as the store or the broker is down."""

    def __init__(
        self,
        store: ResultStore,
        producer: BatchProducer,
        retrier: Retrier,
        *,
        names: Names,
        max_dead_letter_bytes: int,
        pool: tuple[str, str] = (UNKNOWN, UNKNOWN),
    ) -> None:
        """`pool` is the model and version that answers: what dead letters are counted under, whatever a record says."""
        self._store = store
        self._producer = producer
        self._retrier = retrier
        self._names = names
        self._max_dead_letter_bytes = max_dead_letter_bytes
        self._pool = pool
        for lane in Lane:
            for reason in _DEADLY_CODES:
                DEAD_LETTERS.labels(*pool, lane, reason)

    async def deliver(self, answers: Sequence[Answer]) -> None:
        """Return when every answer is durable. Cancelling leaves some undelivered: do not commit then.

        Each stage is tried again by itself, so that a store that is down does not multiply the dead letters.
        """
        dead = [self._dead_letter(answer, answer.dead) for answer in answers if answer.dead is not None]
        await self._retrier.until_done(lambda: self._producer.send(dead), stage="dead_letters")
        for answer in answers:
            if answer.dead is not None:
                reason = bounded(answer.result.error_code, _DEADLY_CODES)
                DEAD_LETTERS.labels(*self._pool, answer.lane, reason).inc()
        stored = [answer for answer in answers if answer.lane is Lane.REQUESTS]
        results = [answer.result for answer in stored]
        waiting = _by_instance(stored, results)
        held = await self._retrier.until_done(lambda: self._store.put(results, wake=waiting), stage="results")
        held_by_key = {result.key: result for result in held}
        to_topic = [
            _result_record(self._names.results, answer, held_by_key.get(answer.result.key, answer.result))
            for answer in answers
            if answer.to_topic
        ]
        await self._retrier.until_done(lambda: self._producer.send(to_topic), stage="results_topic")
        # The store has told who waits, unless another result than ours holds.
        if any(result is not ours for result, ours in zip(held, results, strict=True)):
            await self._wake(_by_instance(stored, held))

    async def _wake(self, waiting: Mapping[str, Sequence[Result]]) -> None:
        """Wake who waits. A wake-up that fails costs a tick: the stored result is the truth."""
        for instance, results in waiting.items():
            try:
                await self._store.wake(instance, results)
            except UnavailableError as error:
                log.warning("wake_up_failed", instance=instance, results=len(results), error=str(error))

    def _dead_letter(self, answer: Answer, record: KafkaRecord) -> OutRecord:
        result = answer.result
        cause = Cause(
            reason=result.error_code or "unknown",
            detail=result.error_detail or "",
            attempts=result.attempt,
            stack=answer.stack,
        )
        return dead_letter(record, cause, topic=self._names.dead_letters, limit_bytes=self._max_dead_letter_bytes)


def _by_instance(answers: Sequence[Answer], results: Sequence[Result]) -> Mapping[str, Sequence[Result]]:
    """The results that each API instance waits for."""
    waiting: dict[str, list[Result]] = {}
    for answer, result in zip(answers, results, strict=True):
        if answer.reply_to is not None:
            waiting.setdefault(answer.reply_to, []).append(result)
    return waiting


def _result_record(topic: str, answer: Answer, result: Result) -> OutRecord:
    headers = [
        SPEC_VERSION,
        RESULT_TYPE,
        ("ce_id", result.request_id.encode()),
        ("ce_source", f"inferlane/{result.model}/{result.version}".encode()),
        ("ce_model", result.model.encode()),
        ("ce_modelversion", result.version.encode()),
        ("ce_status", result.status.value.encode()),
        ("content-type", JSON_CONTENT if result.json_length is None else BINARY_CONTENT),
    ]
    if result.json_length is not None:
        headers.append((JSON_LENGTH, str(result.json_length).encode()))
    if answer.batch_id is not None:
        headers.append(("ce_batchid", answer.batch_id.encode()))
    if answer.source:
        headers.append(("ce_requestsource", answer.source))
    if answer.position is not None:
        headers.append((POSITION, answer.position.encode()))
    if answer.trace_parent is not None:
        headers.append((TRACE_PARENT, answer.trace_parent))
    if result.error_code is not None:
        headers.append(("ce_errorcode", result.error_code.encode()))
        headers.append(("ce_errordetail", (result.error_detail or "").encode()))
    return OutRecord(topic, (answer.batch_id or result.request_id).encode(), result.content, headers)
