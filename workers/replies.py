"""Build the terminal replies of requests, and find the predictions in their outputs. No I/O."""

import random
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from inferlane.contracts.dead_letters import stack_of
from inferlane.contracts.fallback import fallback_record
from inferlane.contracts.lane_tallies import key_bucket
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.outcome_token import OutcomeTokens, TokenContents, label_digest
from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import Result, Status, foreign_key_of
from inferlane.contracts.wire.v2 import encode_response
from inferlane.errors import InferlaneError, ModelError, PayloadTooLargeError
from inferlane.runtime.delivery import Reply
from inferlane.runtime.metrics.instruments import MAX_CLASSES, class_labels
from inferlane.runtime.metrics.worker_metrics import MODEL_SIZE, PREDICTION_VALUE, PREDICTIONS, PROVIDER
from workers.open_labels import open_label_output
from workers.row_comparison import is_finite, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferlane.contracts.kafka_record import KafkaRecord
    from models.catalog import ModelVersion
    from workers.batching import InferredRequest, RunTimes


class ReplyBuilder:
    """Builds the replies of one version."""

    def __init__(
        self,
        version: "ModelVersion",
        *,
        names: Names,
        max_result_bytes: int,
        results_sample: float,
        tokens: OutcomeTokens | None = None,
    ) -> None:
        self._version = version
        self._tokens = tokens
        self._label_output = version.label_output or open_label_output(version)
        self._names = names
        self._max_result_bytes = max_result_bytes
        self._results_sample = results_sample

    def of_inferred(self, inferred: "InferredRequest", times: "RunTimes") -> Reply:
        """Return the reply of an inferred request: its outputs, or its error."""
        request, headers = inferred.request, inferred.request.headers
        if inferred.outputs is None:
            error = inferred.error or InferlaneError("the run gave neither outputs nor an error")
            return self.of_error(request.record, headers, request.lane, error, now_s=times.ended_s)
        if headers.fallback is not None and not is_finite(inferred.outputs):
            error = ModelError(f"an output holds NaN or an infinite number; {headers.fallback} answers it")
            return self.of_error(request.record, headers, request.lane, error, now_s=times.ended_s)
        content, json_length = encode_response(
            inferred.outputs,
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
            outcome_token="" if self._tokens is None else self._token(self._tokens, inferred, times.ended_s),
        )
        return self._reply(result, headers, request.lane, record=request.record)

    def _token(self, tokens: OutcomeTokens, inferred: "InferredRequest", at_s: float) -> str:
        request, headers, outputs = inferred.request, inferred.request.headers, inferred.outputs
        labels = None
        if request.rows == 1 and outputs is not None:
            labels = labels_of(outputs, self._label_output, self._version.classes)
        outcome = TokenContents.of(
            self._version.model,
            self._version.version,
            segment=key_bucket(headers.routing_key) if headers.routing_key else -1,
            request_key=headers.key,
            at_s=at_s,
            label=b"" if labels is None else label_digest(labels[0]),
        )
        return tokens.sign(outcome)

    def of_expired(self, headers: RequestHeaders, lane: Lane, *, now_s: float) -> Reply:
        """Return the reply of a request whose deadline has passed."""
        return self._reply(Result.expired(headers, now_s=now_s), headers, lane)

    def of_overdue(self, record: "KafkaRecord", headers: RequestHeaders, lane: Lane, *, now_s: float) -> Reply:
        """Return the reply of a request that has waited too long here and has a fallback: an expiry of this version."""
        reason = "it has waited for half of the time to its deadline"
        return self._handed_over(record, headers, lane, reason=reason, now_s=now_s)

    def of_halted(self, record: "KafkaRecord", headers: RequestHeaders, lane: Lane, *, now_s: float) -> Reply:
        """Return the reply of a request that a halted worker does not infer, and that has a fallback."""
        return self._handed_over(record, headers, lane, reason="its worker is halted", now_s=now_s)

    def _handed_over(
        self, record: "KafkaRecord", headers: RequestHeaders, lane: Lane, *, reason: str, now_s: float
    ) -> Reply:
        overdue = replace(Result.expired(headers, now_s=now_s), error_detail=f"{reason}; {headers.fallback} answers it")
        fallback = fallback_record(record, headers, names=self._names, lane=lane, now_s=now_s)
        return replace(self._reply(overdue, headers, lane), dead=record, fallback=fallback)

    def of_cancelled(self, headers: RequestHeaders, lane: Lane, *, now_s: float) -> Reply:
        """Return the reply of a cancelled request."""
        return self._reply(Result.cancelled(headers, now_s=now_s), headers, lane)

    def of_error(
        self, record: "KafkaRecord", headers: RequestHeaders, lane: Lane, error: InferlaneError, *, now_s: float
    ) -> Reply:
        """The reply of a request that failed with `error`; its record goes to its fallback, or is dead-lettered."""
        reply = self._reply(Result.failed(headers, error, now_s=now_s), headers, lane)
        fallback = fallback_record(record, headers, names=self._names, lane=lane, now_s=now_s)
        return replace(reply, dead=record, fallback=fallback, stack=stack_of(error))

    def _reply(
        self, result: Result, headers: RequestHeaders, lane: Lane, *, record: "KafkaRecord | None" = None
    ) -> Reply:
        nobody_waits = lane is Lane.BULK or headers.reply_to is None
        sampled = self._results_sample > 0 and random.random() < self._results_sample  # noqa: S311 - a sample
        return Reply(
            result=result,
            lane=lane,
            reply_to=headers.reply_to,
            batch_id=headers.batch_id,
            to_topic=nobody_waits or sampled,
            record=record,
            trace_parent=headers.trace_parent,
            source=headers.source,
            position=headers.position,
            rollout=headers.rollout or "",
            is_copy=headers.shadow_of is not None,
            shadow_run="" if headers.shadow is not None else headers.shadow_run or "",
            key_bucket=key_bucket(headers.routing_key) if headers.rollout and headers.routing_key else -1,
            callback_url=headers.callback_url,
        )


class Predictions:
    """Finds the predictions in the outputs of one version."""

    def __init__(self, version: "ModelVersion") -> None:
        self._class_output = version.label_output
        self._value_output = _value_output(version)

    def of(self, inferred: "Sequence[InferredRequest]") -> tuple[np.ndarray | None, np.ndarray | None]:
        """Class indices and values, each `(rows,)`; None for what the model does not predict."""
        return _gather(inferred, self._class_output), _gather(inferred, self._value_output)


class PredictionCounts:
    """Counts predictions for Prometheus, once per batch."""

    def __init__(self, version: "ModelVersion") -> None:
        self._names = names = (version.model, version.version)
        self._values = PREDICTION_VALUE.labels(*names) if _value_output(version) else None
        labels = class_labels(version.classes) if version.label_output else ()
        self._classes = [PREDICTIONS.labels(*names, label) for label in labels]
        self._named = min(len(version.classes), MAX_CLASSES)
        MODEL_SIZE.labels(*names).set(version.size_bytes)
        for provider in version.execution.providers:
            PROVIDER.labels(*names, provider).set(1)

    def add(
        self, classes: np.ndarray | None, values: np.ndarray | None, open_labels: "Mapping[str, int] | None" = None
    ) -> None:
        """Add the predictions of a batch; an index without a class of its own counts as `other`."""
        for label, count in (open_labels or {}).items():
            PREDICTIONS.labels(*self._names, label).inc(count)
        if classes is not None and self._classes:
            found = np.where((classes >= 0) & (classes < self._named), classes, self._named)
            for index in np.flatnonzero(counts := np.bincount(found.astype(np.intp))):
                self._classes[index].inc(int(counts[index]))
        if values is not None and self._values is not None:
            self._values.observe_many(values)


def _gather(inferred: "Sequence[InferredRequest]", output: str | None) -> np.ndarray | None:
    found = [one.outputs[output] for one in inferred if output and one.outputs is not None]
    return np.concatenate(found).ravel() if found else None


def _value_output(version: "ModelVersion") -> str | None:
    """The output with a regression's values: one float per row, in a model without classes; None if there is none."""
    for spec in version.signature.outputs:
        if not version.classes and spec.row_shape in {(), (1,)} and spec.datatype.startswith("FP"):
            return spec.name
    return None
