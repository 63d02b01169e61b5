"""The predict call as the client sent it: its body and preferences, read and checked against the catalog."""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from inferlane.contracts.identity import committed_id, make_proof
from inferlane.contracts.kafka_record import valid_trace_parent
from inferlane.contracts.wire.json_numbers import refuse_repeats
from inferlane.contracts.wire.small_requests import SmallRows, small_rows_of
from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.contracts.wire.v2 import encode_binary_request
from inferlane.contracts.wire.v2_fields import ResponseForm
from inferlane.errors import (
    UNDECODABLE,
    DecodeError,
    InferlaneError,
    InvalidInputError,
    PayloadTooLargeError,
    clipped,
)
from producer_api.http.error_responses import InvalidParameterError
from producer_api.predict.call_options import (
    NO_ORIGIN,
    CallOptions,
    CallOrigin,
    check_callback_url,
    given_seconds,
    seconds_within,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from inferlane.contracts.traffic_split import Split
    from inferlane.contracts.wire.tensors import Signature
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings, WebhookSettings
    from inferlane.runtime.settings import KafkaSettings
    from inferlane.runtime.split_table import SplitTable
    from models.catalog import Model
    from models.live_catalog import AnyCatalog

SOURCE = b"inferlane/api"
_MAX_KEY_CHARS = 512


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/models/predict`."""

    instances: msgspec.Raw
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    version: str | msgspec.UnsetType | None = msgspec.UNSET
    routing_key: str | msgspec.UnsetType | None = msgspec.UNSET
    timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET
    deadline_s: float | msgspec.UnsetType | None = msgspec.UNSET
    callback_url: str | msgspec.UnsetType | None = msgspec.UNSET


_decode_body = msgspec.json.Decoder(PredictBody).decode


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A checked predict call. `wait_s` is how long the client waits; after `deadline_s` the request expires.

    `wait_until_s` is the end of the wait, monotonic; it includes the time for look-ups and for enqueueing.

    `request_id` is bound to `proof`, caller, model and payload (`contracts.identity`). `caller` is the name of the API
    key that the call was made with, empty without one.
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
    wait_until_s: float
    accepted_s: float
    deadline_s: float
    trace_parent: bytes | None = None
    # How a V2 call wants its response.
    form: ResponseForm | None = None
    # Where the result is sent too.
    callback_url: str | None = None

    def bound_to(self, proof: bytes) -> "Call":
        """Return the same call with this proof and the request id that follows from it."""
        request_id = _bound_id(proof, caller=self.caller, model=self.model, payload=self.payload)
        return msgspec.structs.replace(self, proof=proof, request_id=request_id)


class CallTarget(NamedTuple):
    """Where a request goes: the signature that its rows are read by, and those of other versions it may be sent to."""

    model: str
    signature: "Signature"
    others: "tuple[tuple[str, Signature], ...]" = ()
    # How to encode one row without arrays, where that is possible.
    small: SmallRows | None = None

    def check_others(self, tensors: "Mapping[str, np.ndarray]") -> None:
        """Return if every version that the request may be sent to takes these rows.

        Raises:
            InvalidInputError: one does not.
        """
        for version, other in self.others:
            _check_fits(tensors, version, other)


class AskedFor:
    """Notes in the error that ends a call which model and version the call named."""

    __slots__ = ("_names",)

    def __init__(self, model: str | None, version: str | None) -> None:
        self._names = model, version

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Note the names, and let the error pass."""
        if isinstance(error, InferlaneError):
            error.asked_for = self._names


class CallReader:
    """Reads predict calls and checks them against the catalog."""

    def __init__(
        self,
        api: "ApiSettings",
        kafka: "KafkaSettings",
        webhooks: "WebhookSettings",
        *,
        catalog: "AnyCatalog",
        splits: "SplitTable",
        clock: "Clock",
    ) -> None:
        self._api = api
        self._kafka = kafka
        self._webhooks = webhooks
        self._catalog = catalog
        self._splits = splits
        self._clock = clock
        # By model: the model and the split that it was worked out for, which are other objects after each change.
        self._unpinned_of: dict[str, tuple[Model, Split | None, CallTarget]] = {}

    def read(self, body: bytes, origin: CallOrigin = NO_ORIGIN) -> Call:
        """Check a body against the catalog. Its `timeout_s` takes precedence over `Prefer: wait`.

        A malformed trace parent is dropped, as the standard requires.

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
        refuse_repeats(body, fields)
        target = self.find(fields.model or None, fields.version or None)
        with AskedFor(target.model, fields.version or None):
            encoded = None if target.small is None else target.small.payload(bytes(fields.instances))
            if encoded is None:
                tensors = decode_instances(fields.instances, target.signature, max_rows=self._api.max_rows)
                target.check_others(tensors)
                encoded = encode_binary_request(tensors)
            options = CallOptions(
                version=fields.version or None,
                routing_key=fields.routing_key or None,
                timeout_s=given_seconds(fields.timeout_s),
                deadline_s=given_seconds(fields.deadline_s),
                callback_url=fields.callback_url or None,
            )
            return self._build(target.model, encoded, options, origin)

    def find(self, model_name: str | None, version: str | None) -> CallTarget:
        """Return where a request goes that names these: without a version, wherever the traffic split may send it.

        Raises:
            UnknownModelError: there is none of that name.
            UnusableVersionError: there is one, and it cannot be served.
        """
        with AskedFor(model_name, version):
            model = self._catalog.model(model_name)
        if version:
            with AskedFor(model.name, version):
                return CallTarget(model.name, model.version(version).signature)
        split = self._splits.get(model.name)
        known = self._unpinned_of.get(model.name)
        if known is None or known[0] is not model or known[1] is not split:
            known = self._unpinned_of[model.name] = (model, split, _weighted(model, split))
        return known[2]

    def build(
        self,
        model: str,
        tensors: "Mapping[str, np.ndarray]",
        options: CallOptions,
        origin: CallOrigin,
        form: ResponseForm | None = None,
    ) -> Call:
        """Return the call that asks for these tensors, which fit the model.

        Raises:
            CallbackRefusedError: no result may be sent to the callback URL.
            InvalidParameterError: an option is out of its range.
            PayloadTooLargeError: the tensors take more bytes than a body may have.
        """
        return self._build(model, encode_binary_request(tensors), options, origin, form)

    def _build(
        self,
        model: str,
        encoded: tuple[bytes, int],
        options: CallOptions,
        origin: CallOrigin,
        form: ResponseForm | None = None,
    ) -> Call:
        api, max_body_bytes = self._api, self._kafka.max_body_bytes
        if options.routing_key and len(options.routing_key) > _MAX_KEY_CHARS:
            raise InvalidParameterError(
                f"routing_key has {len(options.routing_key)} characters, the limit is {_MAX_KEY_CHARS}"
            )
        if options.callback_url is not None:
            check_callback_url(options.callback_url, self._webhooks)
        payload, json_length = encoded
        if len(payload) > max_body_bytes:
            raise PayloadTooLargeError(
                f"the tensors take {len(payload)} bytes, the limit is {max_body_bytes}; split it"
            )
        proof = make_proof()
        now_s = self._clock.now_s()
        # A preference that cannot be met is not an error (RFC 7240, section 2); a field of the body is.
        preferred_s = None if origin.wait_s is None else min(origin.wait_s, api.max_wait_s)
        asked_wait_s = preferred_s if options.timeout_s is None else options.timeout_s
        wait_s = seconds_within("timeout_s", asked_wait_s, api.default_wait_s, api.max_wait_s)
        deadline_s = seconds_within("deadline_s", options.deadline_s, api.default_deadline_s, api.max_deadline_s)
        return Call(
            request_id=_bound_id(proof, caller=origin.caller, model=model, payload=payload),
            proof=proof,
            caller=origin.caller,
            model=model,
            version=options.version,
            routing_key=options.routing_key,
            payload=payload,
            json_length=json_length,
            wait_s=wait_s,
            wait_until_s=self._clock.monotonic_s() + wait_s,
            accepted_s=now_s,
            deadline_s=now_s + deadline_s,
            trace_parent=valid_trace_parent(origin.trace_parent) if origin.trace_parent else None,
            form=form,
            callback_url=options.callback_url,
        )


def _weighted(model: "Model", split: "Split | None") -> CallTarget:
    """The signature of the version with the largest weight, and those of the others that differ from it."""
    first = model.unpinned(split).signature
    others = {name: model.versions[name].signature for name in model.weights(split)}
    differing = tuple((name, other) for name, other in others.items() if other.inputs != first.inputs)
    return CallTarget(model.name, first, differing, None if differing else small_rows_of(first))


def _check_fits(tensors: "Mapping[str, np.ndarray]", version: str, signature: "Signature") -> None:
    """Return if the version takes these rows.

    Raises:
        InvalidInputError: it does not, and unpinned requests may go to it.
    """
    try:
        check_tensors(dict(tensors), signature)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{error}. The traffic split sends a part of the requests to version {version!r}, which takes no such "
            "rows; send rows that every version of the split takes, or name a version"
        ) from error


def _bound_id(proof: bytes, *, caller: str, model: str, payload: bytes) -> str:
    return committed_id(proof, source=SOURCE, caller=caller.encode(), model=model.encode(), payload=payload)
