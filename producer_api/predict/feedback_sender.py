"""Check feedback by its outcome tokens, and send it to its topic."""

from typing import TYPE_CHECKING

from inferlane.contracts.feedback import encode_feedback
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.record import JSON_CONTENT
from inferlane.errors import InvalidRequestError
from producer_api.http.error_responses import FeedbackOffError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.feedback import Feedback
    from inferlane.contracts.outcome_token import OutcomeTokens
    from inferlane.runtime.kafka.producer import BatchProducer

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
