"""Delivering terminal results: dead letters first, then the result where its reader looks, then the wake-up.

Only after `deliver` returns may the offset of the request be committed.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from inferlane.dead_letters import dead_letter
from inferlane.errors import UnavailableError
from inferlane.kafka.producing import BatchProducer, OutRecord
from inferlane.metrics import DEAD_LETTERS
from inferlane.record import BINARY_CONTENT, JSON_CONTENT, JSON_LENGTH, RESULT_TYPE, SPEC_VERSION, KafkaRecord
from inferlane.result_store import ResultStore
from inferlane.results import Result
from inferlane.topics import RESULTS, Lane

log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A terminal result and where it goes.

    `reply_to` is the API instance that waits. `to_topic` also (or, for bulk, only) sends it to `inferlane.results`.
    `dead` is the original record when it goes to the dead letters as well.
    """

    result: Result
    lane: Lane
    reply_to: str | None
    batch_id: str | None
    to_topic: bool
    dead: KafkaRecord | None = None


class Delivery:
    """Delivers answers, and tries again for as long as the store or the broker is down."""

    def __init__(self, store: ResultStore, producer: BatchProducer) -> None:
        self._store = store
        self._producer = producer

    async def deliver(self, answers: Sequence[Answer]) -> None:
        """Return when every answer is durable. Cancelling leaves some undelivered: do not commit then."""
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await self._deliver_once(answers)
            except UnavailableError as error:
                log.warning("delivery_retried", answers=len(answers), retry_s=round(delay_s, 3), error=str(error))
                # Jitter: workers that lost the same store must not come back in step.
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                delay_s = min(delay_s * 2, _LONGEST_RETRY_S)
            else:
                return

    async def _deliver_once(self, answers: Sequence[Answer]) -> None:
        dead = [_dead_letter(answer, answer.dead) for answer in answers if answer.dead is not None]
        await self._producer.send(dead)
        stored = [answer for answer in answers if answer.lane is Lane.REQUESTS]
        held = await self._store.put([answer.result for answer in stored])
        held_by_id = {result.request_id: result for result in held}
        await self._producer.send(
            _result_record(answer, held_by_id.get(answer.result.request_id, answer.result))
            for answer in answers
            if answer.to_topic
        )
        await self._wake(stored, held)
        for answer in answers:
            if answer.dead is not None:
                DEAD_LETTERS.labels(answer.result.error_code or "unknown").inc()

    async def _wake(self, stored: Sequence[Answer], held: Sequence[Result]) -> None:
        by_instance: dict[str, list[Result]] = {}
        for answer, result in zip(stored, held, strict=True):
            if answer.reply_to is not None:
                by_instance.setdefault(answer.reply_to, []).append(result)
        for instance, results in by_instance.items():
            await self._store.wake(instance, results)


def _dead_letter(answer: Answer, record: KafkaRecord) -> OutRecord:
    result = answer.result
    return dead_letter(
        record,
        reason=result.error_code or "unknown",
        detail=result.error_detail or "",
        attempts=result.attempt,
    )


def _result_record(answer: Answer, result: Result) -> OutRecord:
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
    if result.error_code is not None:
        headers.append(("ce_errorcode", result.error_code.encode()))
        headers.append(("ce_errordetail", (result.error_detail or "").encode()))
    return OutRecord(RESULTS, (answer.batch_id or result.request_id).encode(), result.content, headers)
