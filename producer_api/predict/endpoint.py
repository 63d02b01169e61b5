"""Predict calls, of V1 and V2 alike, as plain ASGI apps, because FastAPI would cost more than the request itself."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from inferlane.contracts.prediction_body import prediction_body
from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import Result, Status
from producer_api.http.asgi import CALLER, PREDICT_PATH, PlainResponse, header
from producer_api.http.error_responses import result_problem
from producer_api.http.request_body import BodyMemory, content_length, read_body, single_header
from producer_api.http.responses import JSON
from producer_api.predict.call_options import CallOrigin, Preferences, read_preferences
from producer_api.predict.cancellation import ClientDisconnect
from producer_api.predict.direct_predict import DirectPredict
from producer_api.predict.exchange import Exchange
from producer_api.predict.predict_format import PredictFormat, failure_response, response_of
from producer_api.predict.telemetry import begin_call_span

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import KafkaSettings
    from inferlane.runtime.tracing.spans import Tracing
    from models.live_catalog import AnyCatalog
    from producer_api.predict.call import Call, CallReader
    from producer_api.predict.exchange import Exchanges

encode_json = msgspec.json.Encoder().encode


class ResponseBuilder:
    """Builds V1 response bodies from results, with class names instead of class indices."""

    def __init__(self, catalog: "AnyCatalog") -> None:
        self._catalog = catalog

    def body(self, result: Result) -> dict[str, Any]:
        """Return what `prediction_body` does, with the names of the classes of the version that answered.

        Raises:
            InferlaneError: the stored content is not an inference response; the client is not at fault.
        """
        return prediction_body(result, self._catalog.class_names(result.model, result.version))


class V1Format:
    """`POST /v1/models/predict`: rows and predictions as JSON, errors as problem documents."""

    route = PREDICT_PATH
    responds_async = True
    is_coded = False

    def __init__(self, reader: "CallReader", responses: ResponseBuilder) -> None:
        self._reader = reader
        self._responses = responses

    def read(self, _scope: Any, body: bytes, origin: CallOrigin) -> "Call":
        """Read rows as JSON."""
        return self._reader.read(body, origin)

    def fingerprinted(self, _scope: Any, body: bytes) -> bytes:
        """Return the body, which must be the same in each call with one `Idempotency-Key`."""
        return body

    def result_response(self, _call: "Call", result: Result) -> PlainResponse:
        """Return the predictions of a result, or the problem document of a failed one."""
        if result.status is Status.SUCCEEDED:
            return PlainResponse(200, encode_json(self._responses.body(result)), JSON)
        return result_problem(result)

    def queued_response(self, call: "Call") -> PlainResponse:
        """Return 202 with the location where state and result are read."""
        location = prediction_path(call.request_id)
        body = {"request_id": call.request_id, "status": Status.QUEUED.value, "location": location}
        headers = ((b"location", location.encode()), (b"retry-after", b"1"))
        return PlainResponse(202, encode_json(body), JSON, headers)

    async def prepare(self, _scope: Any, response: PlainResponse) -> PlainResponse:
        """Return the response as it is."""
        return response


def prediction_path(request_id: str) -> str:
    """Return where the state and the result of a request are read."""
    return f"/v1/predictions/{request_id}"


# Parsing a larger body would block the event loop for longer than a whole call takes.
_READ_ON_LOOP_BYTES = 1024 * 1024
_TRACE_PARENT = TRACE_PARENT.encode()
# RFC 7240, section 3.
_RESPONDED_ASYNC = (b"preference-applied", b"respond-async")
# Headers of calls that are not served directly.
_NEED_ASGI = frozenset({b"content-encoding", b"idempotency-key"})


def _preferences(scope: Any) -> Preferences:
    # They may come in several headers (RFC 7240, section 2).
    return read_preferences(b", ".join([value for name, value in scope["headers"] if name == b"prefer"]))


class PredictEndpoint:
    """The ASGI app of the predict call in one format."""

    def __init__(
        self,
        api: "ApiSettings",
        kafka: "KafkaSettings",
        call_format: PredictFormat,
        *,
        exchanges: "Exchanges",
        tracing: "Tracing | None" = None,
    ) -> None:
        self._max_body_bytes = kafka.max_body_bytes
        self._cancels_on_disconnect = api.cancel_on_disconnect
        self._format = call_format
        self._exchanges = exchanges
        self._tracing = tracing
        # One thread: it bounds the memory for bodies that are parsed at one time.
        self._large_bodies = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-bodies")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parent, span = header(scope, _TRACE_PARENT), None
        if self._tracing is not None:
            span = begin_call_span(self._tracing, self._format.route, scope["path"], parent=parent)
        exchange = Exchange(parent, span)
        try:
            response = await self.handle(scope, receive, exchange)
        except Exception as error:  # noqa: BLE001 - a bug of ours gets a response too
            response = failure_response(self._exchanges, exchange, error, scope["path"])
        try:
            await (await self._format.prepare(scope, response)).send(send)
        finally:
            self._exchanges.end(exchange, status=response.status)

    def direct(self, scope: Any, held: BodyMemory) -> DirectPredict | None:
        """Return what serves calls with this head directly; None if they need more than their rows computed.

        `held` counts the bodies of the calls under way.
        """
        headers = {name for name, _ in scope["headers"]}
        length = content_length(scope)
        preferred = _preferences(scope)
        if (
            self._tracing is not None
            or self._cancels_on_disconnect
            or headers & _NEED_ASGI
            or (self._format.is_coded and b"accept-encoding" in headers)
            or preferred.is_async
            or length is None
            or length > min(self._max_body_bytes, _READ_ON_LOOP_BYTES)
        ):
            return None
        return DirectPredict(
            self._format,
            self._exchanges,
            held,
            scope=scope,
            wait_s=preferred.wait_s,
            trace_parent=header(scope, _TRACE_PARENT),
        )

    async def handle(self, scope: Any, receive: Any, exchange: Exchange) -> PlainResponse:
        """Read the call, submit its request as its headers ask, and return the response.

        Raises:
            InferlaneError: the call is not valid, or its request was not accepted.
        """
        body = await read_body(scope, receive, self._max_body_bytes)
        preferred = _preferences(scope)
        origin = CallOrigin(preferred.wait_s, exchange.trace_parent, scope.get(CALLER, ""))
        exchange.call = await self._read(scope, body, origin)
        exchange.idempotency_key = single_header(scope, b"idempotency-key")
        waits_for_result = not (preferred.is_async and self._format.responds_async)
        submit = partial(
            self._exchanges.submit,
            exchange,
            fingerprinted=lambda: self._format.fingerprinted(scope, body),
            waits_for_result=waits_for_result,
        )
        # Nobody else knows the id of such a request, and nobody else gets its result.
        is_only_reader = exchange.idempotency_key is None and exchange.call.callback_url is None
        if self._cancels_on_disconnect and waits_for_result and is_only_reader:
            disconnect = ClientDisconnect()
            with disconnect.watching(receive):
                result = await submit(disconnect=disconnect)
        else:
            result = await submit()
        response = response_of(self._format, exchange, result)
        if waits_for_result or response.status != HTTPStatus.ACCEPTED:
            return response
        return response._replace(headers=(*response.headers, _RESPONDED_ASYNC))

    async def _read(self, scope: Any, body: bytes, origin: CallOrigin) -> "Call":
        if len(body) <= _READ_ON_LOOP_BYTES:
            return self._format.read(scope, body, origin)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._large_bodies, self._format.read, scope, body, origin)
