"""Deliver terminal results: first dead letters, then the result to the store or its topic, then the wake-up.

Only after `deliver` returns may the offset of the request be committed. A dead letter or result that its topic refuses
never blocks the others: it is replaced by a smaller one that has the reason.
"""

from collections.abc import Mapping, Sequence

import msgspec
import structlog
from msgspec.structs import replace

from inferlane import errors
from inferlane.contracts.callbacks import CallbackOrder
from inferlane.contracts.dead_letters import Cause
from inferlane.contracts.kafka_record import KafkaRecord, OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import (
    BINARY_CONTENT,
    JSON_CONTENT,
    JSON_LENGTH,
    POSITION,
    RESULT_TYPE,
    SPEC_VERSION,
    TRACE_PARENT,
)
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.errors import InferlaneError, PayloadTooLargeError
from inferlane.runtime.kafka.callback_writer import CallbackWriter
from inferlane.runtime.kafka.record_writer import DeadLetterWriter, PatientSender, Sender, write_each
from inferlane.runtime.metrics.consumer_metrics import DEAD_LETTERS
from inferlane.runtime.metrics.instruments import UNKNOWN, bounded
from inferlane.runtime.redis.result_store import ResultStore
from inferlane.runtime.retry import Retrier

log = structlog.get_logger(__name__)

# The errors with which a record can become a dead letter.
_DEADLY_CODES = frozenset(
    error.code
    for error in (
        errors.DecodeError,
        errors.FatalRecordError,
        errors.InferlaneError,
        errors.InvalidInputError,
        errors.ModelError,
        errors.PayloadTooLargeError,
        errors.RecordRefusedError,
        errors.TopicMissingError,
        errors.UnavailableError,
        errors.UnknownModelError,
        errors.UnusableVersionError,
    )
)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal result and its destination.

    `reply_to` is the API instance that waits. `to_topic` also (or, for bulk, only) sends it to `inferlane.results`.
    `dead` is the original record when it goes to the dead letters as well, `stack` where its error was raised, and
    `record` the original of a reply that may still become such. `fallback` is the record for the version that answers
    instead: once the fallback is written, the reply is not delivered.
    `trace_parent` is the request's W3C header, which its result on the topic has too. `source` and `position` are what
    a foreign producer said of itself, and where its record lay: there they tell whose the result is. `callback_url` is
    where the sender wants the result.
    """

    result: Result
    lane: Lane
    reply_to: str | None
    batch_id: str | None
    to_topic: bool
    dead: KafkaRecord | None = None
    record: KafkaRecord | None = None
    fallback: OutRecord | None = None
    stack: str = ""
    trace_parent: bytes | None = None
    source: bytes = b""
    position: str | None = None
    # The rollout in which it counts, and the bucket of its routing key (`contracts.lane_tallies`), -1 without a key.
    rollout: str = ""
    key_bucket: int = -1
    # Whether it is the result of a shadow copy, which no client gets, and the run in which it is compared, if any.
    is_copy: bool = False
    shadow_run: str = ""
    callback_url: str | None = None


class Delivery:
    """Delivers replies, and retries for as long as the store or the broker is down."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        store: ResultStore,
        producer: Sender,
        retrier: Retrier,
        *,
        names: Names,
        max_dead_letter_bytes: int,
        pool: tuple[str, str] = (UNKNOWN, UNKNOWN),
        classes: ClassNames = NO_NAMES,
    ) -> None:
        """`pool`: the model and version that dead letters are counted under, whatever a record says.

        `classes`: the names of the classes of that version by output, for callbacks.
        """
        self._store = store
        self._sender = producer
        self._retrier = retrier
        self._names = names
        self._dead_letters = DeadLetterWriter(
            producer, retrier, topic=names.dead_letters, limit_bytes=max_dead_letter_bytes
        )
        self._callbacks = CallbackWriter(
            producer, retrier, self._dead_letters, topic=names.callbacks, pool=pool, classes=classes
        )
        self._pool = pool
        for lane in Lane:
            for reason in _DEADLY_CODES:
                DEAD_LETTERS.labels(*pool, lane, reason)

    async def deliver(self, replies: Sequence[Reply]) -> None:
        """Return when every reply is durable. Cancelling leaves some undelivered: do not commit then.

        Each stage is retried by itself, so an outage of the store does not multiply the dead letters.
        """
        replies = await self._write_dead_letters(replies)
        stored = [reply for reply in replies if reply.lane is Lane.REQUESTS]
        results = [reply.result for reply in stored]
        waiting = _by_instance(stored, results)
        held = await self._retrier.until_done(lambda: self._store.put(results, wake=waiting), stage="results")
        sent_on = [reply for reply in replies if reply.to_topic or reply.callback_url is not None]
        if sent_on:
            await self._send_on(sent_on, {result.key: result for result in held})
        # The store has sent the wake-up, unless another result is in force.
        if any(result is not ours for result, ours in zip(held, results, strict=True)):
            await self._wake(_by_instance(stored, held))

    async def _send_on(self, replies: Sequence[Reply], held_by_key: Mapping[str, Result]) -> None:
        """Write the results for the topic, and those for callbacks, each as it is held in the store."""
        to_topic = [
            replace(reply, result=held_by_key.get(reply.result.key, reply.result))
            for reply in replies
            if reply.to_topic
        ]
        failed = await self._write_results(to_topic)
        if asked := [reply for reply in replies if reply.callback_url is not None]:
            final = {**held_by_key, **{reply.result.key: reply.result for reply in failed}}
            ended = [(final.get(reply.result.key, reply.result), _order_of(reply)) for reply in asked]
            await self._callbacks.write(ended)

    async def _write_dead_letters(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Write the dead letters; the reply of a record without a dead letter says so."""
        dead = {number: reply.dead for number, reply in enumerate(replies) if reply.dead is not None}
        if not dead:
            return replies
        outcomes = await self._dead_letters.write([(dead[number], _cause_of(replies[number])) for number in dead])
        told = list(replies)
        for number, error in zip(dead, outcomes, strict=True):
            reply = replies[number]
            reason = bounded(reply.result.error_code, _DEADLY_CODES)
            DEAD_LETTERS.labels(*self._pool, reply.lane, reason).inc()
            if error is not None:
                told[number] = replace(reply, result=_not_kept(reply.result, dead[number], error))
        return told

    async def _write_results(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Write the results for the topic. A result that the topic refuses is replaced by one that says so.

        Returns the bulk replies that failed for that reason.
        """
        refused = await self._try_results(replies)
        too_large = [(reply, error) for reply, error in refused if isinstance(error, PayloadTooLargeError)]
        instead = await self._write_dead_letters([_instead(reply, error) for reply, error in too_large])
        lost = [pair for pair in refused if not isinstance(pair[1], PayloadTooLargeError)] + list(
            await self._try_results(instead)
        )
        for reply, error in lost:
            log.error("result_not_on_topic", request_id=reply.result.request_id, error=str(error))
        return [reply for reply in instead if reply.lane is Lane.BULK]

    async def _try_results(self, replies: Sequence[Reply]) -> Sequence[tuple[Reply, InferlaneError]]:
        """Return those that the topic refuses."""
        refused: list[tuple[Reply, InferlaneError]] = []
        for lane in {reply.lane for reply in replies}:
            ours = [reply for reply in replies if reply.lane is lane]
            # A bulk result has no other destination: it waits for a missing topic.
            sender = PatientSender(self._sender) if lane is Lane.BULK else self._sender
            records = [_result_record(self._names.results, reply) for reply in ours]
            outcomes = await write_each(sender, self._retrier, records, stage="results_topic")
            refused += [(reply, error) for reply, error in zip(ours, outcomes, strict=True) if error is not None]
        return refused

    async def _wake(self, waiting: Mapping[str, Sequence[Result]]) -> None:
        """Wake the API instances that wait. A lost wake-up only costs time: they also poll the stored results."""
        for instance, results in waiting.items():
            try:
                await self._store.wake(instance, results)
            except InferlaneError as error:
                log.warning("wake_up_failed", instance=instance, results=len(results), error=str(error))


def _order_of(reply: Reply) -> CallbackOrder:
    return CallbackOrder(
        url=reply.callback_url or "",
        source=reply.source,
        position=reply.position,
        batch_id=reply.batch_id,
        trace_parent=reply.trace_parent,
    )


def _cause_of(reply: Reply) -> Cause:
    result = reply.result
    return Cause(
        reason=result.error_code or "unknown",
        detail=result.error_detail or "",
        attempts=result.attempt,
        stack=reply.stack,
    )


def _not_kept(result: Result, record: KafkaRecord, error: InferlaneError) -> Result:
    """Return the result of a record that has no dead letter."""
    where = f"{record.topic}-{record.partition}-{record.offset}"
    return replace(
        result, error_detail=f"{result.error_detail or ''} (no dead letter: {error}; the record lies at {where})"
    )


def _instead(reply: Reply, error: InferlaneError) -> Reply:
    """Return the result for the topic if the full one is too large for it.

    The stored result of a request stays as it is, so only its content is left out; a bulk result has no other
    destination, so the request has failed.
    """
    if reply.lane is Lane.REQUESTS:
        where = f"{error}; read the result at GET /v1/predictions/{reply.result.request_id}"
        short = replace(reply.result, content=b"", json_length=None, error_code=error.code, error_detail=where)
        return replace(reply, result=short, dead=None)
    failed = replace(
        reply.result,
        status=Status.FAILED,
        content=b"",
        json_length=None,
        error_code=error.code,
        error_detail=str(error),
    )
    return replace(reply, result=failed, dead=reply.record)


def _by_instance(replies: Sequence[Reply], results: Sequence[Result]) -> Mapping[str, Sequence[Result]]:
    """Return the results that each API instance waits for."""
    waiting: dict[str, list[Result]] = {}
    for reply, result in zip(replies, results, strict=True):
        if reply.reply_to is not None:
            waiting.setdefault(reply.reply_to, []).append(result)
    return waiting


def _result_record(topic: str, reply: Reply) -> OutRecord:
    result = reply.result
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
    if reply.batch_id is not None:
        headers.append(("ce_batchid", reply.batch_id.encode()))
    if reply.source:
        headers.append(("ce_requestsource", reply.source))
    if reply.position is not None:
        headers.append((POSITION, reply.position.encode()))
    if reply.trace_parent is not None:
        headers.append((TRACE_PARENT, reply.trace_parent))
    if result.outcome_token:
        headers.append(("ce_outcometoken", result.outcome_token.encode()))
    if result.error_code is not None:
        headers.append(("ce_errorcode", result.error_code.encode()))
        headers.append(("ce_errordetail", (result.error_detail or "").encode()))
    return OutRecord(topic, (reply.batch_id or result.request_id).encode(), result.content, headers)
