"""Dispatch callbacks: each is delivered, waits in a topic for a retry, or becomes a dead letter."""

import random
import time
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.callback_addresses import check_url
from inferlane.contracts.callbacks import Callback, read_callback, retry_record
from inferlane.contracts.dead_letters import Cause
from inferlane.contracts.naming import CALLBACK_STAGES
from inferlane.errors import CallbackRefusedError, DecodeError, InferlaneError
from inferlane.runtime.kafka.record_writer import DeadLetterWriter, PatientSender, Sender, write_each
from inferlane.runtime.metrics import webhook_metrics as metrics
from webhook_sender.http_sender import CallOutcome
from webhook_sender.receivers import Receivers, Room

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.runtime.retry import Clock, Retrier
    from inferlane.runtime.service_settings import WebhookSettings
    from inferlane.runtime.settings import KafkaSettings
    from webhook_sender.http_sender import HttpSender
    from webhook_sender.signing import Signer

log = structlog.get_logger(__name__)

GONE = "callback_gone"
"""The reason of a dead letter whose receiver answered 410."""

UNDELIVERED = "callback_undelivered"
"""The reason of a dead letter that was tried for as long as `INFERLANE_WEBHOOK_GIVE_UP_S` says."""

_FACTOR = 4
# Callbacks that failed together must not come back together.
_JITTER = 0.25
_REASONS = (GONE, UNDELIVERED, CallbackRefusedError.code, DecodeError.code, InferlaneError.code)


def retry_stage(tries: int) -> int:
    """Return the stage, counted from 1, of the topic in which a callback waits after this many tries."""
    return min(max(tries, 1), CALLBACK_STAGES)


def retry_delay_s(stage: int, first_s: float) -> float:
    """Return how long a callback waits there at least: four times as long as in the topic before."""
    return first_s * float(_FACTOR ** (stage - 1))


def longest_wait_s(stage: int, first_s: float) -> float:
    """Return the longest time that a callback of ours waits in the topic of a stage; 0 is the topic of new ones."""
    return retry_delay_s(stage, first_s) * (1 + _JITTER) if stage else 0.0


def stage_after(wait_s: float, first_s: float) -> int:
    """Return the first stage whose callbacks wait at least so long, or the last one.

    A callback that waited longer than others of its topic would hold up those behind it.
    """
    stages = range(1, CALLBACK_STAGES)
    return next((stage for stage in stages if retry_delay_s(stage, first_s) >= wait_s), CALLBACK_STAGES)


class Dispatcher:
    """Decides for each callback, and makes the decision durable. Used from one event loop."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        kafka: "KafkaSettings",
        names: "Names",
        webhooks: "WebhookSettings",
        *,
        http: "HttpSender",
        signer: "Signer",
        receivers: Receivers,
        producer: Sender,
        retrier: "Retrier",
        clock: "Clock",
    ) -> None:
        self._names = names
        self._networks = webhooks.networks
        self._first_retry_s = webhooks.first_retry_s
        self._give_up_s = webhooks.give_up_s
        self._http = http
        self._signer = signer
        self._receivers = receivers
        # Wait for a missing topic of retries: the callback has no other destination.
        self._sender = PatientSender(producer)
        self._retrier = retrier
        self._clock = clock
        self._dead_letters = DeadLetterWriter(
            producer, retrier, topic=names.dead_letters, limit_bytes=kafka.max_body_bytes
        )
        for outcome in CallOutcome:
            metrics.CALLS.labels(outcome)
        for why in (Room.BUSY, Room.FAILING, CallOutcome.FAILED):
            metrics.WAITING.labels(why)
        for reason in _REASONS:
            metrics.GIVEN_UP.labels(reason)

    async def dispatch(self, record: "KafkaRecord") -> None:
        """Return when the callback is delivered, or durable in a topic of retries or of dead letters."""
        try:
            await self._dispatch(record)
        except InferlaneError:
            raise
        except Exception as error:
            # One record that we cannot work on must not end the process, which would meet it again at its next start.
            log.exception("callback_not_dispatched", topic=record.topic, offset=record.offset)
            await self._give_up(record, InferlaneError.code, f"an error of ours: {error!r}", tries=0)

    async def _dispatch(self, record: "KafkaRecord") -> None:
        try:
            callback = read_callback(record)
            receiver = check_url(callback.url, self._networks)
        except (DecodeError, CallbackRefusedError) as error:
            await self._give_up(record, error.code, str(error), tries=0)
            return
        if self._receivers.is_gone(callback.url):
            detail = "the receiver answered 410 to another callback within the last hour: it wants no more at this URL"
            await self._give_up(record, GONE, detail, tries=callback.tries)
            return
        async with self._receivers.room(receiver) as room:
            if room is Room.FREE:
                await self._call(record, callback, receiver)
                return
        # While the receiver fails, another callback probes it; this one waits as if it had failed too.
        tries = callback.tries + (room is Room.FAILING)
        await self._try_later(record, callback, tries=tries, reason=room.value, detail=f"the receiver is {room}")

    async def _call(self, record: "KafkaRecord", callback: Callback, receiver: str) -> None:
        now_s = self._clock.now_s()
        began_s = time.perf_counter()
        headers = self._signer.headers(callback, now_s=now_s)
        result = await self._http.send(callback.url, callback.body, headers)
        metrics.CALLS.labels(result.outcome).inc()
        metrics.CALL.observe(time.perf_counter() - began_s)
        failed = result.outcome is CallOutcome.FAILED
        # No receiver keeps the callbacks of others who use its host waiting for longer than that.
        rest_s = min(result.retry_after_s, retry_delay_s(CALLBACK_STAGES, self._first_retry_s))
        self._receivers.note(receiver, succeeded=not failed, rest_s=rest_s)
        tries = callback.tries + 1
        if result.outcome is CallOutcome.DELIVERED:
            metrics.DELIVERY.observe(max(0.0, self._clock.now_s() - callback.finished_s))
        elif failed:
            await self._try_later(
                record,
                callback,
                tries=tries,
                reason=CallOutcome.FAILED.value,
                detail=result.detail,
                retry_after_s=result.retry_after_s,
            )
        elif result.outcome is CallOutcome.GONE:
            self._receivers.note_gone(callback.url)
            await self._give_up(record, GONE, result.detail, tries=tries)
        else:
            await self._give_up(record, CallbackRefusedError.code, result.detail, tries=tries)

    async def _try_later(
        self,
        record: "KafkaRecord",
        callback: Callback,
        *,
        tries: int,
        reason: str,
        detail: str,
        retry_after_s: float = 0.0,
    ) -> None:
        now_s = self._clock.now_s()
        # A clock that was set back, or a record of a stranger, may name a first try that is still to come.
        first_s = min(callback.first_tried_s or now_s, now_s)
        stage = max(retry_stage(tries), stage_after(retry_after_s, self._first_retry_s))
        delay_s = retry_delay_s(stage, self._first_retry_s) * random.uniform(1, 1 + _JITTER)  # noqa: S311 - no secret
        if now_s + delay_s > first_s + self._give_up_s:
            text = f"not delivered within {self._give_up_s:g} s (INFERLANE_WEBHOOK_GIVE_UP_S): {detail}"
            await self._give_up(record, UNDELIVERED, text, tries=tries)
            return
        metrics.WAITING.labels(reason).inc()
        log.debug("callback_tried_later", request_id=callback.request_id, tries=tries, wait_s=delay_s, reason=detail)
        out = retry_record(
            self._names.callback_retries(stage), record, tries=tries, first_tried_s=first_s, due_s=now_s + delay_s
        )
        (error,) = await write_each(self._sender, self._retrier, [out], stage="callback_retries")
        if error is not None:
            await self._give_up(record, error.code, str(error), tries=tries)

    async def _give_up(self, record: "KafkaRecord", reason: str, detail: str, *, tries: int) -> None:
        metrics.GIVEN_UP.labels(reason).inc()
        log.warning("callback_given_up", topic=record.topic, offset=record.offset, reason=reason, detail=detail)
        await self._dead_letters.write([(record, Cause(reason=reason, detail=detail, attempts=tries))])
