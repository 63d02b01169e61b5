"""Read the records of one version into requests; small bodies of one form are read together, as most of a batch are."""

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog

from inferlane.contracts.record import RequestHeaders, read_headers
from inferlane.contracts.wire.tensor_layout import TensorLayout
from inferlane.contracts.wire.v2_fields import ResponseForm, read_request_head
from inferlane.errors import UNDECODABLE, InferlaneError, clipped
from workers.requests import UNREADABLE, Request, check_names, decode_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferlane.contracts.kafka_record import KafkaRecord
    from inferlane.contracts.naming import Lane
    from models.catalog import ModelVersion

    Refused: TypeAlias = tuple[KafkaRecord, InferlaneError]
    # A record whose body is read with others, after its place among the requests.
    _Waiting: TypeAlias = tuple[int, KafkaRecord, RequestHeaders]

log = structlog.get_logger(__name__)

# Larger bodies are not copied into one array: that costs more than reading each where it lies.
_TOGETHER_BYTES = 4 * 1024
# As in `inferlane.contracts.wire.v2`: JSON parts repeat, and only small ones are kept.
_CACHED_FORMS = 1024
_CACHED_HEADER_BYTES = 1024


class _BodyForm(msgspec.Struct, frozen=True, eq=False):
    """What all bodies with one JSON part are: where their numbers lie, and what they ask for."""

    json_length: int
    layout: TensorLayout
    response: ResponseForm


class RequestReader:
    """Reads the records of one version. Used from one event loop."""

    def __init__(self, version: "ModelVersion") -> None:
        self._version = version
        self._form_of = lru_cache(maxsize=_CACHED_FORMS)(self._read_form)

    def read(self, records: "Iterable[KafkaRecord]", lane: "Lane") -> "tuple[Sequence[Request], Sequence[Refused]]":
        """Return the requests in the order of their records, and each record that is none with its error.

        Never raises, whatever a record holds.
        """
        requests: list[Request | None] = []
        refused: list[Refused] = []
        together: dict[_BodyForm, list[_Waiting]] = {}
        for record in records:
            try:
                headers = read_headers(record)
                form = self._form(record.value, headers.json_length)
                if form is None:
                    requests.append(decode_body(record, headers, lane, self._version))
                    continue
            except Exception as error:  # noqa: BLE001 - a record must never stop the lane
                refused.append((record, _refusal(record, error)))
                continue
            together.setdefault(form, []).append((len(requests), record, headers))
            requests.append(None)
        for form, waiting in together.items():
            self._read_together(form, waiting, lane, requests, refused)
        return [request for request in requests if request is not None], refused

    def _read_together(
        self,
        form: _BodyForm,
        waiting: "Sequence[_Waiting]",
        lane: "Lane",
        requests: list[Request | None],
        refused: "list[Refused]",
    ) -> None:
        """Put the requests of these records in their places; those of one that is refused stays empty."""
        bodies = [(record.value or b"")[form.json_length :] for _, record, _ in waiting]
        tensors = form.layout.read(bodies)
        if tensors is not None:
            rows, response = form.layout.rows, form.response
            for (number, record, headers), own in zip(waiting, tensors, strict=True):
                requests[number] = Request(
                    record=record, headers=headers, lane=lane, tensors=own, rows=rows, form=response
                )
            return
        # Reading each alone finds the one whose numbers are refused, and says which number it is.
        for number, record, headers in waiting:
            try:
                requests[number] = decode_body(record, headers, lane, self._version)
            except Exception as error:  # noqa: BLE001 - as above
                refused.append((record, _refusal(record, error)))

    def _form(self, payload: bytes | None, json_length: int | None) -> _BodyForm | None:
        """Return the form of a body that may be read with others; None for one that is read alone."""
        if json_length is None or payload is None or not 0 < json_length <= _CACHED_HEADER_BYTES:
            return None
        form = self._form_of(payload[:json_length])
        return form if form is not None and len(payload) == json_length + form.layout.size_bytes else None

    def _read_form(self, header: bytes) -> _BodyForm | None:
        try:
            asked = read_request_head(header)
            check_names(self._version, asked.model, asked.version, asked.form.names)
        except (*UNREADABLE, *UNDECODABLE):
            return None
        layout = TensorLayout.of(asked.inputs, self._version.signature)
        if layout is None or layout.size_bytes > _TOGETHER_BYTES:
            return None
        return _BodyForm(len(header), layout, asked.form)


def _refusal(record: "KafkaRecord", error: Exception) -> InferlaneError:
    if isinstance(error, UNREADABLE):
        return error
    log.error("record_undecodable", topic=record.topic, offset=record.offset, exc_info=error)
    return InferlaneError(f"decoding failed: {clipped(repr(error))}")
