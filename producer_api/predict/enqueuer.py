"""The producer side of the API: requests and feedback on their way to the broker.

Records that gather while one batch is being sent form the next batch.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.feedback import encode_feedback
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.record import JSON_CONTENT
from inferlane.errors import InferlaneError, InvalidRequestError, OverloadedError, UnavailableError, clipped
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.metrics.api_metrics import ENQUEUE
from inferlane.runtime.service import Background
from producer_api.http.error_responses import FeedbackOffError, stopping

if TYPE_CHECKING:
    from inferlane.contracts.feedback import Feedback
    from inferlane.contracts.outcome_token import OutcomeTokens

log = structlog.get_logger(__name__)

# The requests of clients that were answered together are read in a few turns of the event loop. Fewer turns make
# smaller batches; without a limit a steady stream of requests would never be sent.
_TURNS_TO_JOIN = 10

OnAcknowledged = Callable[[InferlaneError | None], None]
"""Called once with None when the record is acknowledged, or with the error for which it may not have been written."""


class Enqueuer:
    """Hands records to the broker; none waits for a batch fuller than what comes with it. One event loop."""

    def __init__(self, producer: BatchProducer, *, max_pending: int, max_pending_bytes: int) -> None:
        self._producer = producer
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._pending: dict[int, tuple[OutRecord, OnAcknowledged]] = {}
        self._tickets = itertools.count()
        self._wake = asyncio.Event()
        self._background = Background(self._send_for_ever, name="enqueuer")

    async def start(self) -> None:
        """Start sending."""
        self._background.start()

    async def close(self) -> None:
        """Stop sending; pending records fail."""
        await self._background.close()
        pending, self._pending = list(self._pending.values()), {}
        for record, on_acknowledged in pending:
            self._pending_bytes -= len(record.value)
            on_acknowledged(stopping())

    @property
    def is_running(self) -> bool:
        """Whether the task that sends records runs."""
        return self._background.is_running

    def enqueue(self, record: OutRecord, on_acknowledged: OnAcknowledged) -> int:
        """Queue a record for the next batch and report its outcome; return the ticket for `withdraw`.

        Raises:
            OverloadedError: too many records, or too many bytes, are pending.
        """
        if len(self._pending) >= self._max_pending:
            raise OverloadedError(
                f"{len(self._pending)} requests wait for the broker, the limit is {self._max_pending}; send again later"
            )
        if self._pending_bytes + len(record.value) > self._max_pending_bytes:
            raise OverloadedError(
                f"{self._pending_bytes} bytes of requests wait for the broker, the limit is {self._max_pending_bytes} "
                "(INFERLANE_MAX_PENDING_BYTES); send again later"
            )
        self._pending_bytes += len(record.value)
        ticket = next(self._tickets)
        self._pending[ticket] = (record, on_acknowledged)
        self._wake.set()
        return ticket

    def withdraw(self, ticket: int) -> bool:
        """Remove a record that was not sent yet, without calling its `on_acknowledged`; return False if it was sent."""
        entry = self._pending.pop(ticket, None)
        if entry is None:
            return False
        self._pending_bytes -= len(entry[0].value)
        return True

    async def _let_others_join(self) -> None:
        """Return when a turn of the event loop brings no further record, or after a few turns."""
        for _ in range(_TURNS_TO_JOIN):
            before = len(self._pending)
            await asyncio.sleep(0)
            if len(self._pending) <= before:
                return

    async def _send_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._let_others_join()
            batch, self._pending = list(self._pending.values()), {}
            # A record that is refused does not fail the others of its batch.
            answers: Sequence[InferlaneError | None] = [stopping()] * len(batch)
            try:
                with ENQUEUE.time():
                    answers = await self._producer.send_each([record for record, _ in batch])
            except Exception as error:  # the next batch must still be sent
                log.exception("enqueue_failed", records=len(batch))
                failure = UnavailableError(f"sending the request failed: {clipped(repr(error))}; send it again")
                answers = [failure] * len(batch)
            finally:
                self._pending_bytes -= sum(len(record.value) for record, _ in batch)
                for (_, on_acknowledged), answer in zip(batch, answers, strict=True):
                    try:
                        on_acknowledged(answer)
                    except Exception:  # a fault in one call must not leave the others of the batch unanswered
                        log.exception("acknowledgement_failed")


_HEADERS = [("content-type", JSON_CONTENT)]


class FeedbackSender:
    """Checks feedback and sends it to its topic."""

    def __init__(
        self, producer: "BatchProducer", tokens: "OutcomeTokens | None", *, topic: str, max_age_s: float
    ) -> None:
        self._producer = producer
        self._tokens = tokens
        self._topic = topic
        self._max_age_s = max_age_s

    async def send(self, given: "Sequence[Feedback]", *, now_s: float) -> None:
        """Return when the broker has all of it.

        Raises:
            FeedbackOffError: this stack makes no outcome tokens.
            InvalidRequestError: a piece cannot be counted; none was sent.
            UnavailableError: the broker does not answer; sending it again is harmless.
        """
        if self._tokens is None:
            raise FeedbackOffError("there are no outcome tokens: set INFERLANE_FEEDBACK_SECRET for the whole stack")
        records = []
        for number, piece in enumerate(given):
            where = f"feedback {number}: " if len(given) > 1 else ""
            try:
                outcome = self._tokens.read(piece.token, now_s=now_s, max_age_s=self._max_age_s)
            except InvalidRequestError as error:
                raise InvalidRequestError(f"{where}{error}") from error
            if piece.label is None and piece.reward is None:
                raise InvalidRequestError(f"{where}it has neither a `label` nor a `reward`")
            if piece.label is not None and not outcome.label:
                raise InvalidRequestError(
                    f"{where}its token holds no predicted class to compare a `label` with: only requests of one row "
                    "to a model with classes have one; send a `reward`"
                )
            key = f"{outcome.model}/{outcome.version}".encode()
            records.append(OutRecord(self._topic, key, encode_feedback(piece), _HEADERS))
        await self._producer.send(records)
