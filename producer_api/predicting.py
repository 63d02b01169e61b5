"""A predict call between HTTP and the queue: check it, enqueue it, wait for it."""

import asyncio
import math
from typing import TYPE_CHECKING

import msgspec

from inferlane.errors import UNDECODABLE, DecodeError, PayloadTooLargeError
from inferlane.identity import committed_id, make_proof
from inferlane.kafka.producing import OutRecord
from inferlane.metrics.api import ACCEPTED
from inferlane.naming import Lane
from inferlane.quoting import clipped
from inferlane.record import (
    CALLER,
    JSON_LENGTH,
    PROOF,
    TRACE_PARENT,
    fixed_request_headers,
    format_time,
    valid_trace_parent,
)
from inferlane.results import Accepted, Result
from inferlane.wire.tensors import row_count
from inferlane.wire.v1 import decode_instances
from inferlane.wire.v2 import encode_binary_request
from producer_api.problems import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from inferlane.clock import Clock
    from inferlane.config import Settings
    from inferlane.errors import InferlaneError
    from models.catalog import Catalog
    from producer_api.admission import Admission
    from producer_api.spans import Enqueue
    from producer_api.waiting import WaitingRoom

_SOURCE = b"inferlane/api"
_MAX_KEY_CHARS = 512
# Records of one send that may lie in one partition: the router reads them all, so company costs nobody.
_TOGETHER = 1_000


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/models/predict`."""

    instances: msgspec.Raw
    model: str | None = None
    version: str | None = None
    routing_key: str | None = None
    timeout_s: float | None = None
    deadline_s: float | None = None


_decode_body = msgspec.json.Decoder(PredictBody).decode


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A checked predict call. `wait_s` is how long the client waits, `deadline_s` when the answer is worth nothing.

    `request_id` is bound to `proof`, caller, model and payload (`inferlane.identity`). `caller` is the name of the API
    key that it came with, empty if it came with none.
    """

    request_id: str
    proof: bytes
    caller: str
    model: str
    version: str | None
    routing_key: str | None
    payload: bytes
    json_length: int
    wait_s: float
    accepted_s: float
    deadline_s: float
    trace_parent: bytes | None = None

    def bound_to(self, proof: bytes) -> "Call":
        """The same call under the id that this proof gives it."""
        request_id = _bound_id(proof, caller=self.caller, model=self.model, payload=self.payload)
        return msgspec.structs.replace(self, proof=proof, request_id=request_id)


class Predictor:
    """Takes predict calls in and hands their results out. One event loop."""

    def __init__(
        self,
        settings: "Settings",
        *,
        catalog: "Catalog",
        enqueuer: "Enqueue",
        room: "WaitingRoom",
        admission: "Admission",
        clock: "Clock",
    ) -> None:
        self._settings = settings
        self._topic = settings.names.ingress[Lane.REQUESTS]
        self._accepted = {model: ACCEPTED.labels(model) for model in catalog.models}
        self._catalog = catalog
        self._admission = admission
        self._enqueuer = enqueuer
        self._room = room
        self._clock = clock
        # The same for each request of a model, so they are built once.
        self._model_headers = {
            name: (*fixed_request_headers(source=_SOURCE.decode(), model=name), ("ce_replyto", room.instance.encode()))
            for name in catalog.models
        }

    def read(
        self, body: bytes, *, wait_s: float | None = None, trace_parent: bytes | None = None, caller: str = ""
    ) -> Call:
        """Check a body against the catalog. `wait_s` is what `Prefer: wait` asked for; the body's field wins.

        `trace_parent` is the client's W3C header; one that is malformed is dropped, as the standard wants.

        Raises:
            DecodeError: the body is not JSON.
            InvalidRequestError: the body is not a predict call, or does not fit the model; nothing was enqueued.
        """
        try:
            fields = _decode_body(body)
        except msgspec.ValidationError as error:
            raise InvalidParameterError(f"the body is not a predict call: {clipped(str(error))}") from error
        except UNDECODABLE as error:
            raise DecodeError(
                f"the body is not valid JSON: {clipped(str(error))}. NaN and Infinity are not JSON; "
                'a body looks like {"instances": [[5.1, 3.5, 1.4, 0.2]]}'
            ) from error
        model = self._catalog.model(fields.model)
        version = model.version(fields.version or model.default_version)
        tensors = decode_instances(fields.instances, version.signature, max_rows=self._settings.max_rows)
        rows = row_count(tensors)
        if rows > self._settings.max_rows:
            raise PayloadTooLargeError(
                f"{rows} rows in one request, the limit is {self._settings.max_rows}; "
                "split the request, or use `inferlane batch submit`"
            )
        if fields.routing_key is not None and len(fields.routing_key) > _MAX_KEY_CHARS:
            raise InvalidParameterError(
                f"routing_key has {len(fields.routing_key)} characters, the limit is {_MAX_KEY_CHARS}"
            )
        call = self._call(fields, model.name, tensors, wait_s, caller)
        return msgspec.structs.replace(call, trace_parent=valid_trace_parent(trace_parent)) if trace_parent else call

    def _call(
        self, fields: PredictBody, model: str, tensors: "Mapping[str, np.ndarray]", wait_s: float | None, caller: str
    ) -> Call:
        settings = self._settings
        payload, json_length = encode_binary_request(tensors)
        if len(payload) > settings.max_body_bytes:
            raise PayloadTooLargeError(
                f"the tensors take {len(payload)} bytes, the limit is {settings.max_body_bytes}; split it"
            )
        proof = make_proof()
        now_s = self._clock.now_s()
        # A preference that cannot be met is not an error (RFC 7240, section 2); a field of ours is.
        preferred_s = None if wait_s is None else min(wait_s, settings.max_wait_s)
        asked_wait_s = fields.timeout_s if fields.timeout_s is not None else preferred_s
        return Call(
            request_id=_bound_id(proof, caller=caller, model=model, payload=payload),
            proof=proof,
            caller=caller,
            model=model,
            version=fields.version,
            routing_key=fields.routing_key or None,
            payload=payload,
            json_length=json_length,
            wait_s=_seconds("timeout_s", asked_wait_s, settings.default_wait_s, settings.max_wait_s),
            accepted_s=now_s,
            deadline_s=now_s
            + _seconds("deadline_s", fields.deadline_s, settings.default_deadline_s, settings.max_deadline_s),
        )

    async def submit_and_wait(self, call: Call) -> Result | None:
        """Enqueue and return the result, or None when the wait ran out first; the request then goes on.

        Raises:
            OverloadedError: too many are waiting, or the deadline cannot be met; nothing was enqueued.
            UnavailableError: the broker did not take the request.
        """
        self._admit(call)
        place = self._room.enter(call.request_id)
        acknowledged: asyncio.Future[None] = place.get_loop().create_future()

        def on_answer(error: "InferlaneError | None") -> None:
            self._acknowledge(acknowledged, call, error)
            if error is not None and not place.done():
                place.set_result(None)

        try:
            self._enqueuer.enqueue(self._record(call), on_answer)
            result = await self._room.wait(place, min(call.wait_s, call.deadline_s - call.accepted_s))
        finally:
            self._room.leave(call.request_id, place)
        if result is None:
            result = await self._give_up(call, acknowledged)
        return result

    async def _give_up(self, call: Call, acknowledged: "asyncio.Future[None]") -> Result | None:
        """What a wait that ran out ends in: nothing is accepted before the broker has it."""
        await acknowledged
        # Marked before the last read: a result that comes between the two is seen, or takes the mark away.
        await self._mark_accepted(call)
        (result,) = await self._room.store.get([call.request_id])
        return result

    async def submit(self, call: Call) -> None:
        """Enqueue and return when the broker has the request.

        Raises:
            OverloadedError: too many are waiting, or the deadline cannot be met; nothing was enqueued.
            UnavailableError: the broker did not take the request, or the store could not note it.
        """
        self._admit(call)
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._mark_accepted(call)
        self._enqueuer.enqueue(self._record(call), lambda error: self._acknowledge(acknowledged, call, error))
        await acknowledged

    async def join(self, call: Call, *, wait_s: float) -> Result | None:
        """Return the result of a request that was enqueued before, or None when `wait_s` ran out first.

        Raises:
            OverloadedError: too many are waiting here.
            UnavailableError: the store does not answer.
        """
        place = self._room.enter(call.request_id)
        try:
            (result,) = await self._room.store.get([call.request_id])
            if result is None and wait_s > 0:
                result = await self._room.wait(place, wait_s)
        finally:
            self._room.leave(call.request_id, place)
        if result is None and wait_s > 0:
            (result,) = await self._room.store.get([call.request_id])
        return result

    def _acknowledge(self, acknowledged: "asyncio.Future[None]", call: Call, error: "InferlaneError | None") -> None:
        if error is None:
            self._accepted[call.model].inc()
        _acknowledge(acknowledged, error)

    def _admit(self, call: Call) -> None:
        self._admission.admit(call.model, call.version, within_s=max(0.0, call.deadline_s - self._clock.now_s()))

    async def _mark_accepted(self, call: Call) -> None:
        accepted = Accepted(
            model=call.model,
            version=call.version,
            accepted_s=call.accepted_s,
            deadline_s=call.deadline_s,
            caller=call.caller,
        )
        ttl_s = call.deadline_s - call.accepted_s + self._settings.result_ttl_s
        await self._room.store.mark_accepted(call.request_id, accepted, ttl_s=ttl_s)

    def _record(self, call: Call) -> OutRecord:
        headers = [
            *self._model_headers[call.model],
            ("ce_id", call.request_id.encode()),
            (PROOF, call.proof),
            ("ce_time", format_time(call.accepted_s)),
            ("ce_deadline", format_time(call.deadline_s)),
            (JSON_LENGTH, b"%d" % call.json_length),
        ]
        if call.caller:
            headers.append((CALLER, call.caller.encode()))
        if call.version is not None:
            headers.append(("ce_modelversion", call.version.encode()))
        if call.routing_key is not None:
            headers.append(("ce_routingkey", call.routing_key.encode()))
        if call.trace_parent is not None:
            headers.append((TRACE_PARENT, call.trace_parent))
        key = (call.routing_key or call.request_id).encode()
        return OutRecord(self._topic, key, call.payload, headers, together=0 if call.routing_key else _TOGETHER)


def _bound_id(proof: bytes, *, caller: str, model: str, payload: bytes) -> str:
    return committed_id(proof, source=_SOURCE, caller=caller.encode(), model=model.encode(), payload=payload)


def _acknowledge(acknowledged: "asyncio.Future[None]", error: "InferlaneError | None") -> None:
    if acknowledged.done():
        return
    if error is None:
        acknowledged.set_result(None)
    else:
        acknowledged.set_exception(error)


def _seconds(name: str, asked: float | None, default: float, limit: float) -> float:
    if asked is None:
        return default
    if not 0 <= asked <= limit or math.isnan(asked):
        raise InvalidParameterError(f"{name} is {asked}; it must be between 0 and {limit} seconds")
    return asked
