"""Read the feedback topic and report on each version: sums in the store, means with intervals."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import structlog
from aiokafka.errors import KafkaError

from inferlane.contracts.feedback import FeedbackReport, Measured, Sums, decode_feedback
from inferlane.contracts.outcome_token import NO_SEGMENT
from inferlane.errors import DecodeError, InferlaneError, InvalidRequestError
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.metrics.router_metrics import FEEDBACK
from inferlane.runtime.redis.feedback_store import QUALITY, REWARD, FeedbackStore, Piece
from router.rollouts.statistics import unit_width

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Names
    from inferlane.contracts.outcome_token import OutcomeTokens
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import FeedbackSettings
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_POLL_MS = 500
_MAX_RECORDS = 500
_RETRY_S = 1.0
_ALPHA = 0.05
# The interval is tightest at this many pieces of feedback.
_TUNED_FOR = 1_000.0
_MIN_VARIANCE = 1e-12


class FeedbackTally:
    """Adds up feedback, each piece once. One event loop; a member of a group, so that each record has one reader."""

    def __init__(
        self,
        feedback: "FeedbackSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        tokens: "OutcomeTokens",
        store: FeedbackStore,
        clock: "Clock",
    ) -> None:
        self._feedback = feedback
        self._kafka = kafka
        self._names = names
        self._tokens = tokens
        self._store = store
        self._clock = clock
        self._counts = {outcome: FEEDBACK.labels(outcome) for outcome in ("counted", "refused")}

    async def run(self) -> NoReturn:
        """Follow the topic until cancelled; retry while the broker or the store is unavailable."""
        while True:
            consumer = make_consumer(self._kafka, self._names.feedback, group=self._names.feedback_group)
            try:
                await consumer.start()
                await self._follow(consumer)
            except (KafkaError, InferlaneError, OSError) as error:
                log.warning("feedback_not_read", error=repr(error), retry_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
            finally:
                await consumer.stop()

    async def _follow(self, consumer: "AIOKafkaConsumer") -> NoReturn:
        while True:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
            if not fetched:
                continue
            await self.add([record for records in fetched.values() for record in records])
            # Commit after the sums are stored: a crash only repeats the reading, and each piece is counted once.
            await consumer.commit()

    async def add(self, records: "Sequence[KafkaRecord]") -> None:
        """Add the feedback of these records; records that are not valid feedback are counted as refused.

        Raises:
            UnavailableError: the store does not answer; adding again is harmless.
        """
        by_version: dict[tuple[str, str], list[Piece]] = {}
        for record in records:
            try:
                model, version, pieces = self._read(record)
            except (DecodeError, InvalidRequestError) as error:
                self._counts["refused"].inc()
                log.debug("feedback_refused", offset=record.offset, error=str(error))
                continue
            by_version.setdefault((model, version), []).extend(pieces)
        for (model, version), pieces in by_version.items():
            sums = await self._store.add(model, version, pieces)
            await self._store.put_report(model, version, report_of(sums, now_s=self._clock.now_s()))
            self._counts["counted"].inc(len(pieces))

    def _read(self, record: "KafkaRecord") -> tuple[str, str, list[Piece]]:
        given = decode_feedback(record.value or b"")
        # Its age counts from when it was sent: a backlog must not make it too old.
        sent_s = min(record.timestamp / 1000, self._clock.now_s())
        outcome = self._tokens.read(given.token, now_s=sent_s, max_age_s=self._feedback.max_age_s)
        pieces = []
        piece = partial(Piece, day=outcome.day, segment=outcome.segment, request=outcome.request)
        if given.label is not None and outcome.label:
            value = float(outcome.is_label(given.label))
            pieces.append(piece(kind=QUALITY, value=value))
        if given.reward is not None:
            pieces.append(piece(kind=REWARD, value=given.reward))
        if not pieces:
            raise InvalidRequestError(
                "the feedback has neither a reward nor a label that its token can be compared with"
            )
        return outcome.model, outcome.version, pieces


def report_of(sums: Mapping[str, Mapping[int, Sums]], *, now_s: float) -> FeedbackReport:
    """Return what the sums of a version say."""
    return FeedbackReport(
        quality=_measured(sums.get(QUALITY, {})), reward=_measured(sums.get(REWARD, {})), updated_s=now_s
    )


def _measured(segments: Mapping[int, Sums]) -> Measured | None:
    """Return the mean with an asymptotic confidence sequence (Waudby-Smith et al., arXiv 2103.06476, equation 9).

    The requests of one routing key go to one version and are correlated: a segment is one draw, so the variance is
    that between segments. Each piece of feedback without a segment is a draw.
    """
    count = sum(held.count for held in segments.values())
    if not count:
        return None
    mean = sum(held.total for held in segments.values()) / count
    alone = segments.get(NO_SEGMENT, Sums())
    spread = alone.squares - 2 * mean * alone.total + mean * mean * alone.count
    spread += sum((held.total - mean * held.count) ** 2 for segment, held in segments.items() if segment != NO_SEGMENT)
    draws = alone.count + sum(segment != NO_SEGMENT for segment in segments)
    # Variance of the mean is spread / count²; of one draw it is `draws` times that. Few draws that are all alike say
    # little: as if one more had been elsewhere.
    variance = max(spread, _MIN_VARIANCE) * draws / count**2 + _prior(mean, segments) / draws
    half = math.sqrt(variance) * unit_width(draws, alpha=_ALPHA, tuned_for=_TUNED_FOR)
    return Measured(count=count, mean=mean, low=mean - half, high=mean + half)


def _prior(mean: float, segments: Mapping[int, Sums]) -> float:
    """Return the square of the size of the values: what a draw may differ by."""
    count = sum(held.count for held in segments.values())
    return max(sum(held.squares for held in segments.values()) / count, mean * mean)
