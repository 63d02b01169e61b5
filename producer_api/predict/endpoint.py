"""`POST /v1/models/predict` as a plain ASGI app, because FastAPI would cost more than the request itself."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from inferlane.contracts.record import TRACE_PARENT, trace_id_of
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response
from inferlane.errors import DecodeError, InferlaneError
from producer_api.http.asgi import CALLER, PREDICT_PATH, PlainResponse, header
from producer_api.http.problems import crash_problem, problem_of, result_problem
from producer_api.http.request_body import read_body, single_header
from producer_api.predict.call import read_preferences
from producer_api.predict.cancellation import ClientDisconnect
from producer_api.predict.idempotency import IdempotencyKey
from producer_api.predict.telemetry import begin_call_span, end_call_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.contracts.wire.tensors import Tensors
    from inferlane.runtime.config import Settings
    from inferlane.runtime.tracing.spans import Span, Tracing
    from models.catalog import Catalog
    from producer_api.predict.call import Call, CallReader
    from producer_api.predict.idempotency import IdempotentSubmitter
    from producer_api.predict.store_capacity import DeliveredResults
    from producer_api.predict.submitter import Submitter
    from producer_api.predict.telemetry import ResponseMetrics

encode_json = msgspec.json.Encoder().encode


class ResponseBuilder:
    """Builds V1 response bodies from results, with class names instead of class indices."""

    def __init__(self, catalog: "Catalog") -> None:
        self._classes: Mapping[tuple[str, str], tuple[str, ...]] = {
            (version.model, version.version): version.classes for version in catalog.all_versions()
        }

    def body(self, result: Result) -> dict[str, Any]:
        """Return the body: the predictions if the request succeeded, else its error.

        Numbers that JSON cannot represent are the strings "NaN", "Infinity" and "-Infinity".

        Raises:
            InferlaneError: the stored content is not an inference response; the client is not at fault.
        """
        answer: dict[str, Any] = {
            "request_id": result.request_id,
            "status": result.status.value,
            "model": result.model,
            "version": result.version,
        }
        if result.status is Status.SUCCEEDED:
            outputs = _outputs(result)
            answer["predictions"] = encode_predictions(outputs, self._classes.get((result.model, result.version), ()))
        else:
            answer["error"] = {"code": result.error_code, "detail": result.error_detail}
        answer["timings_ms"] = {
            "queue_wait": round(result.queue_wait_s * 1000, 3),
            "inference": round(result.inference_s * 1000, 3),
            "total": round((result.finished_s - result.accepted_s) * 1000, 3),
        }
        return answer


def _outputs(result: Result) -> "Tensors":
    try:
        return decode_response(result.content, result.json_length)
    except DecodeError as error:
        raise InferlaneError(f"the stored result cannot be read: {error}") from error


log = structlog.get_logger(__name__)

_JSON = b"application/json"
# Parsing a larger body would block the event loop for longer than a whole call takes.
_READ_ON_LOOP_BYTES = 1024 * 1024
_TRACE_PARENT = TRACE_PARENT.encode()


class PredictEndpoint:
    """The ASGI app of one path."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        settings: "Settings",
        *,
        reader: "CallReader",
        submitter: "Submitter",
        idempotent: "IdempotentSubmitter",
        responses: ResponseBuilder,
        metrics: "ResponseMetrics",
        delivered: "DeliveredResults",
        tracing: "Tracing | None" = None,
    ) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._cancels_on_disconnect = settings.cancel_on_disconnect
        self._reader = reader
        self._submitter = submitter
        self._idempotent = idempotent
        self._responses = responses
        self._metrics = metrics
        self._delivered = delivered
        self._tracing = tracing
        # One thread: it bounds the memory for bodies that are parsed at one time.
        self._large_bodies = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-bodies")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started_s = time.perf_counter()
        exchange = _Exchange(header(scope, _TRACE_PARENT))
        span: Span | None = None
        if self._tracing is not None:
            span = begin_call_span(self._tracing, PREDICT_PATH, parent=exchange.trace_parent)
            exchange.trace_parent = span.traceparent
        try:
            response = await self.handle(scope, receive, exchange)
        except InferlaneError as error:
            response = problem_of(error)
            exchange.error_code = error.code
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log.warning("predict_failed", **exchange.named(), code=error.code, error=str(error))
        except Exception as error:  # a bug of ours is a problem document too
            log.exception("predict_crashed", **exchange.named())
            response = crash_problem(error)
            exchange.error_code = InferlaneError.code
        await response.send(send)
        self._observe(scope, exchange, response.status, span)
        model, version = exchange.served_by()
        took_s = time.perf_counter() - started_s
        self._metrics.observe_response(
            model, version, status=response.status, reason=exchange.error_code, took_s=took_s
        )

    async def handle(self, scope: Any, receive: Any, exchange: "_Exchange") -> PlainResponse:
        """Read the call, submit its request as its headers ask, and return the response.

        What is known of the call is noted in `exchange` step by step, so that it is there when an error ends the call.

        Raises:
            InferlaneError: the call is not valid, or its request was not accepted.
        """
        body = await read_body(scope, receive, self._max_body_bytes)
        # Preferences may come in several headers (RFC 7240, section 2).
        preferred = read_preferences(b", ".join([value for name, value in scope["headers"] if name == b"prefer"]))
        caller = scope.get(CALLER, "")
        call = exchange.call = await self._read(body, preferred.wait_s, exchange.trace_parent, caller)
        key = single_header(scope, b"idempotency-key")
        result = None
        if key is not None:
            claimed = IdempotencyKey(caller=caller, key=key)
            call, result = await self._idempotent.submit(claimed, body, call, waits_for_result=not preferred.is_async)
            exchange.call = call
        elif preferred.is_async:
            await self._submitter.submit(call)
        elif self._cancels_on_disconnect:
            result = await self._submit_until_disconnect(call, receive)
        else:
            result = await self._submitter.submit_and_wait(call)
        if result is None:
            return _queued_response(call.request_id)
        exchange.result = result
        exchange.error_code = result.error_code
        if result.status is Status.SUCCEEDED:
            return PlainResponse(200, encode_json(self._responses.body(result)), _JSON)
        return result_problem(result)

    async def _read(self, body: bytes, wait_s: float | None, trace_parent: bytes | None, caller: str) -> "Call":
        read = partial(self._reader.read, body, wait_s=wait_s, trace_parent=trace_parent, caller=caller)
        if len(body) <= _READ_ON_LOOP_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._large_bodies, read)

    async def _submit_until_disconnect(self, call: "Call", receive: Any) -> "Result | None":
        """Do `submit_and_wait`, and cancel the request if the client disconnects meanwhile."""
        disconnect = ClientDisconnect()

        async def watch() -> None:
            # The body is read, so the only message left is that the client has disconnected.
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnect.note()

        watching = asyncio.create_task(watch())
        try:
            return await self._submitter.submit_and_wait(call, disconnect=disconnect)
        finally:
            watching.cancel()

    def _observe(self, scope: Any, exchange: "_Exchange", status: int, span: "Span | None") -> None:
        # Whoever sent an idempotency key may send the same call again, and gets the result then.
        if exchange.result is not None and status == HTTPStatus.OK and header(scope, b"idempotency-key") is None:
            self._delivered.note(exchange.result.key)
        if span is not None:
            _, version = exchange.served_by()
            end_call_span(span, exchange.call, status=status, version=version, error=exchange.error_code)


@dataclass(slots=True)
class _Exchange:
    """What is known of one call while it is served: for the log, its span and the metrics."""

    trace_parent: bytes | None
    call: "Call | None" = None
    result: Result | None = None
    error_code: str | None = None

    def served_by(self) -> tuple[str | None, str | None]:
        """The model and version that served the call, or that it asked for; None where it is not known."""
        known = self.result or self.call
        return (known.model or None, known.version or None) if known else (None, None)

    def named(self) -> dict[str, str | None]:
        """What a log line says of the call, to find it again in other processes."""
        return {
            "model": self.call.model if self.call else None,
            "request_id": self.call.request_id if self.call else None,
            "trace_id": trace_id_of(self.trace_parent),
        }


def _queued_response(request_id: str) -> PlainResponse:
    location = f"/v1/predictions/{request_id}"
    body = {"request_id": request_id, "status": Status.QUEUED.value, "location": location}
    headers = ((b"location", location.encode()), (b"retry-after", b"1"))
    return PlainResponse(202, encode_json(body), _JSON, headers)
