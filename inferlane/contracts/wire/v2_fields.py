"""The JSON parts of Open Inference Protocol V2 messages: their fields, and what a request asks for with them.

Source: Open Inference Protocol V2 "Inference Request/Response JSON Object" and its "Binary Tensor Data Extension".
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from inferlane.contracts.wire.json_numbers import refuse_repeats
from inferlane.errors import DecodeError, quoted

# The most tensors of a request: no model has more, and more would only cost time.
_MAX_TENSORS = 1_000
# The limit of names that the result repeats, like `inferlane.contracts.record.MAX_NAME_BYTES` for names in headers.
_MAX_ID_CHARS = 512

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# The most axes: numpy allows 64, models have fewer; every tensor has a row axis.
Shape = Annotated[list[Size], msgspec.Meta(min_length=1, max_length=32)]
Absent = msgspec.UnsetType
_UNSET = msgspec.UNSET


class InputParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    binary_data_size: Size | Absent = _UNSET
    content_type: Literal["np"] | Absent = _UNSET


class InputEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    shape: Shape
    datatype: str
    parameters: InputParameters | Absent | None = _UNSET
    data: msgspec.Raw | Absent = _UNSET


class OutputParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    binary_data: bool | Absent = _UNSET


class AskedOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    parameters: OutputParameters | Absent | None = _UNSET


class RequestParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    binary_data_output: bool | Absent = _UNSET
    content_type: Literal["np"] | Absent = _UNSET


class RequestFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a request. Each is used or refused: ignoring one would answer another question.

    Optional fields may be null: many clients write every field that they know.
    """

    inputs: list[InputEntry]
    parameters: RequestParameters | Absent | None = _UNSET
    outputs: list[AskedOutput] | Absent | None = _UNSET
    id: Annotated[str, msgspec.Meta(max_length=_MAX_ID_CHARS)] | Absent | None = _UNSET
    model_name: str | Absent | None = _UNSET
    model_version: str | Absent | None = _UNSET
    model: str | Absent | None = _UNSET
    version: str | Absent | None = _UNSET


class DataSize(msgspec.Struct, frozen=True, omit_defaults=True):
    binary_data_size: int | None = None


class OutputEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    shape: list[Size]
    datatype: str
    parameters: DataSize = DataSize()
    data: Any = None


class OutputRead(msgspec.Struct, frozen=True):
    """An output as it is read: its numbers are still text."""

    name: str
    shape: Shape
    datatype: str
    parameters: DataSize = DataSize()
    data: msgspec.Raw | Absent = _UNSET


class ResponseHead(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[OutputEntry]
    id: str | None = None


class ResponseRead(msgspec.Struct, frozen=True):
    outputs: list[OutputRead]


class ResponseForm(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the response: under the request's `id`, these outputs in this order, each as JSON or as bytes.

    No `names` means every output. `binary` says how outputs go that are in neither of the sets.
    """

    id: str | None = None
    names: tuple[str, ...] = ()
    binary: bool = False
    as_bytes: frozenset[str] = frozenset()
    as_json: frozenset[str] = frozenset()
    # How many of its best classes an output gives in place of its scores; only calls over HTTP ask for it.
    classes: Mapping[str, int] = MappingProxyType({})

    def is_binary(self, name: str) -> bool:
        """Return whether the output of that name goes as bytes."""
        return name in self.as_bytes or (self.binary and name not in self.as_json)


ALL_AS_JSON = ResponseForm()
ALL_AS_BYTES = ResponseForm(binary=True)


class RequestHead(msgspec.Struct, frozen=True):
    """The JSON part of a request, once checked."""

    inputs: list[InputEntry]
    form: ResponseForm
    model: str | None
    version: str | None


_decode_request = msgspec.json.Decoder(RequestFields).decode


def read_request_head(header: bytes) -> RequestHead:
    """Read the JSON part of a request.

    Raises:
        DecodeError: a field or a name is repeated, or two fields contradict each other.
        msgspec.DecodeError: it is not JSON, or has other fields than the protocol's.
    """
    request = _decode_request(header)
    refuse_repeats(header, request)
    return request_head_of(request)


def request_head_of(request: RequestFields) -> RequestHead:
    """Return what the fields of a request say together.

    Raises:
        DecodeError: a name is repeated, or two fields contradict each other.
    """
    _check_names([entry.name for entry in request.inputs], "inputs")
    return RequestHead(
        request.inputs,
        _form(request),
        _one_name(request.model, request.model_name, "model"),
        _one_name(request.version, request.model_version, "version"),
    )


def _form(request: RequestFields) -> ResponseForm:
    binary = isinstance(request.parameters, RequestParameters) and request.parameters.binary_data_output is True
    own_id = request.id if isinstance(request.id, str) else None
    if not request.outputs:
        if own_id is None:
            return ALL_AS_BYTES if binary else ALL_AS_JSON
        return ResponseForm(id=own_id, binary=binary)
    names = tuple(entry.name for entry in request.outputs)
    _check_names(names, "outputs")
    forms = {
        entry.name: entry.parameters.binary_data
        for entry in request.outputs
        if isinstance(entry.parameters, OutputParameters)
    }
    return ResponseForm(
        id=own_id,
        names=names,
        binary=binary,
        as_bytes=frozenset(name for name, form in forms.items() if form is True),
        as_json=frozenset(name for name, form in forms.items() if form is False),
    )


def _check_names(names: Sequence[str], which: str) -> None:
    if len(names) > _MAX_TENSORS:
        raise DecodeError(f"the request has {len(names)} {which}, the limit is {_MAX_TENSORS}")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DecodeError(f"two of the {which} are called {quoted(name)}; name each once")
        seen.add(name)


def _one_name(short: Any, long: Any, what: str) -> str | None:
    named = {name for name in (short, long) if isinstance(name, str) and name}
    if len(named) > 1:
        raise DecodeError(f"the body names two of a {what}: {' and '.join(sorted(map(quoted, named)))}; name one")
    return next(iter(named), None)
