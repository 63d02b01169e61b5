"""From what a run gave to the terminal answers of its requests. Pure."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from inferlane.contracts.dead_letters import stack_of
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import Result, Status, foreign_key_of
from inferlane.contracts.wire.v2 import encode_response
from inferlane.errors import InferlaneError, PayloadTooLargeError
from inferlane.runtime.delivery import Answer

if TYPE_CHECKING:
    from inferlane.contracts.record import KafkaRecord
    from models.catalog import ModelVersion
    from workers.batching import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """When a run started and ended, seconds since the epoch; during `waited_s` of it the model ran for others."""

    started_s: float
    ended_s: float
    waited_s: float = 0.0

    @property
    def inference_s(self) -> float:
        """For how long the model ran."""
        return max(0.0, self.ended_s - self.started_s - self.waited_s)


class Answers:
    """Builds the answers of one version's workers."""

    def __init__(self, version: "ModelVersion", *, max_result_bytes: int, results_sample: float) -> None:
        self._version = version
        self._max_result_bytes = max_result_bytes
        self._results_sample = results_sample

    def of_outcome(self, outcome: "Outcome", times: RunTimes) -> Answer:
        """The answer of a request that was run."""
        request, headers = outcome.request, outcome.request.headers
        if outcome.outputs is None:
            error = outcome.error or InferlaneError("the run gave neither outputs nor an error")
            return self.of_error(request.record, headers, request.lane, error, now_s=times.ended_s)
        content, json_length = encode_response(
            outcome.outputs,
            model=self._version.model,
            version=self._version.version,
            request_id=headers.request_id,
            form=request.form,
        )
        if len(content) > self._max_result_bytes:
            too_large = PayloadTooLargeError(
                f"the result has {len(content)} bytes, the limit is {self._max_result_bytes}; send fewer rows a request"
            )
            return self.of_error(request.record, headers, request.lane, too_large, now_s=times.ended_s)
        result = Result(
            request_id=headers.request_id,
            status=Status.SUCCEEDED,
            model=self._version.model,
            version=self._version.version,
            attempt=headers.attempt,
            accepted_s=headers.accepted_s,
            finished_s=times.ended_s,
            queue_wait_s=max(0.0, times.started_s - headers.accepted_s),
            inference_s=times.inference_s,
            rows=request.rows,
            content=content,
            json_length=json_length,
            foreign_key=foreign_key_of(headers),
            caller=headers.caller,
        )
        return replace(self._answer(result, headers, request.lane), record=request.record)

    def of_expired(self, headers: RequestHeaders, lane: Lane, *, now_s: float) -> Answer:
        """The answer of a request whose deadline has passed."""
        return self._answer(Result.expired(headers, now_s=now_s), headers, lane)

    def of_cancelled(self, headers: RequestHeaders, lane: Lane, *, now_s: float) -> Answer:
        """The answer of a request that its client took back."""
        return self._answer(Result.cancelled(headers, now_s=now_s), headers, lane)

    def of_error(
        self, record: "KafkaRecord", headers: RequestHeaders, lane: Lane, error: InferlaneError, *, now_s: float
    ) -> Answer:
        """The answer of a request that `error` ended; its record goes to the dead letters."""
        answer = self._answer(Result.failed(headers, error, now_s=now_s), headers, lane)
        return replace(answer, dead=record, stack=stack_of(error))

    def _answer(self, result: Result, headers: RequestHeaders, lane: Lane) -> Answer:
        nobody_waits = lane is Lane.BULK or headers.reply_to is None
        sampled = self._results_sample > 0 and random.random() < self._results_sample  # noqa: S311 - a sample
        return Answer(
            result=result,
            lane=lane,
            reply_to=headers.reply_to,
            batch_id=headers.batch_id,
            to_topic=nobody_waits or sampled,
            trace_parent=headers.trace_parent,
            source=headers.source,
            position=headers.position,
        )
