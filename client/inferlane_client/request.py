"""One request: its rows, and how it is to be served, as the body of a predict call."""

import json
import math
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from inferlane_client.call_errors import InvalidInput, ProblemDetails

Rows = Any
"""What `predict` takes: a sequence of rows, a numpy array, a pandas or pyarrow object, or a mapping of input names to
such columns. The libraries have no common type, and none is imported here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of many, with what the others do not share. What is None is left to the call, then to the server.

    Args:
        rows: as `Client.predict` takes them.
        model: its name.
        version: pins the request to a version; else the traffic split chooses.
        routing_key: requests with one key go to one version.
        deadline_s: seconds after which the answer is worth nothing, and nothing is computed.
        callback_url: where the result is POSTed when there is one, if the server sends callbacks.
        idempotency_key: the same key is the same request; one is made up if there is none.
    """

    rows: Rows
    model: str | None = None
    version: str | None = None
    routing_key: str | None = None
    deadline_s: float | None = None
    callback_url: str | None = None
    idempotency_key: str | None = None

    def encoded(self) -> bytes:
        """The body of the call.

        Raises:
            InvalidInput: the rows cannot be sent as JSON.
        """
        named = {"model": self.model, "version": self.version}
        instances = instances_of(self.rows)
        more = {name: value for name, value in named.items() if value is not None} | self.options()
        try:
            return encode_json({"instances": instances} | more)
        except InvalidInput:
            # Only rows with missing values, or with what JSON cannot hold, are gone through value by value.
            return encode_json({"instances": _with_nulls(instances, "instances")} | more)

    def options(self) -> dict[str, Any]:
        """How the request is to be served, as fields of the V1 call and parameters of the V2 call."""
        named = {"routing_key": self.routing_key, "deadline_s": self.deadline_s, "callback_url": self.callback_url}
        return {name: value for name, value in named.items() if value is not None}

    def key(self) -> str:
        """The idempotency key, or a new one.

        Raises:
            InvalidInput: it cannot be sent as a header.
        """
        if self.idempotency_key is None:
            return uuid.uuid4().hex
        if not (self.idempotency_key and self.idempotency_key.isascii() and self.idempotency_key.isprintable()):
            raise _invalid(
                f"the idempotency key is {self.idempotency_key!r}; send printable ASCII characters, such as a UUID"
            )
        return self.idempotency_key


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Encode the body of a call.

    Raises:
        InvalidInput: it holds what JSON has not.
    """
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"), default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _invalid(f"a value cannot be sent as JSON: {error}. Send finite numbers, booleans or strings") from error


def instances_of(rows: Rows) -> list[Any]:
    """The rows as a list: for a model of one input a value a row, for one of several an object with a field an input.

    Raises:
        InvalidInput: they are not rows.
    """
    if isinstance(rows, Mapping):
        return _instances_of_columns({str(name): _values(column) for name, column in rows.items()})
    return _values(rows)


def _instances_of_columns(columns: Mapping[str, list[Any]]) -> list[Any]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise _invalid(f"the columns have {lengths} rows; send one column an input, all of one length")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(rows: Any) -> list[Any]:
    """A list with one element a row. Columns of a frame or a table are joined, each value with the type that it has."""
    numpy, pandas, arrow = _loaded("numpy"), _loaded("pandas"), _loaded("pyarrow")
    if numpy and isinstance(rows, numpy.ndarray):
        if rows.ndim == 0:
            raise _invalid("the array has no axis; its first one must be that of the rows")
        return list(rows.tolist())
    if pandas and isinstance(rows, pandas.DataFrame):
        return _joined([rows.iloc[:, place].tolist() for place in range(rows.shape[1])])
    if pandas and isinstance(rows, pandas.Series | pandas.Index):
        return list(rows.tolist())
    if arrow and isinstance(rows, arrow.Table | arrow.RecordBatch):
        return _joined([column.to_pylist() for column in rows.columns])
    if arrow and isinstance(rows, arrow.Array | arrow.ChunkedArray):
        return list(rows.to_pylist())
    if isinstance(rows, Iterable) and not isinstance(rows, str | bytes | bytearray | memoryview):
        return list(rows)
    raise _invalid(
        f"{type(rows).__name__} holds no rows; send a sequence of rows, a numpy array, a pandas or pyarrow object, or "
        "a mapping of input names to columns"
    )


def _joined(columns: Sequence[list[Any]]) -> list[Any]:
    # A single column of lists, as pyarrow keeps tensors, holds whole rows.
    if len(columns) == 1 and all(isinstance(value, list) or _is_array(value) for value in columns[0]):
        return columns[0]
    return [list(row) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    """What `json` does not know: arrays and numbers of numpy inside of rows."""
    numpy = _loaded("numpy")
    if numpy and isinstance(value, numpy.ndarray | numpy.generic):
        plain = value.tolist()
        # Some numbers of numpy are wider than any of Python's, and stay as they are.
        if not isinstance(plain, numpy.generic):
            return plain
    raise TypeError(f"of the type {type(value).__name__}, which JSON cannot hold")


def _with_nulls(value: Any, place: str) -> Any:
    """The value with null for what is missing: NaN, and the NA of pandas.

    Raises:
        InvalidInput: JSON cannot hold it; the message has its place.
    """
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise _invalid(f"{place} is {value}, which JSON cannot hold: send finite numbers, or `predict_tensors`")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _with_nulls(inner, f"{place}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(inner, f"{place}[{number}]") for number, inner in enumerate(value)]
    pandas = _loaded("pandas")
    if pandas and value is pandas.NA:
        return None
    try:
        plain = _plain(value)
    except TypeError as error:
        raise _invalid(f"{place} is {error}: send finite numbers, booleans or strings") from error
    return _with_nulls(plain, place)


def _is_array(value: Any) -> bool:
    numpy = _loaded("numpy")
    return bool(numpy and isinstance(value, numpy.ndarray))


def _loaded(name: str) -> ModuleType | None:
    """A library that the program has imported: a value of its types cannot be there before."""
    return sys.modules.get(name)


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(ProblemDetails(code="invalid_input", title="The rows cannot be sent", detail=detail))


def request_of(item: Request | Rows, *, model: str | None, version: str | None) -> Request:
    """The request that an item of many stands for; what it does not name itself is that of the call."""
    if not isinstance(item, Request):
        return Request(rows=item, model=model, version=version)
    return replace(item, model=item.model or model, version=item.version or version)


def check_concurrency(concurrency: int) -> int:
    """Return the number if so many requests can be under way.

    Raises:
        ValueError: it is less than 1.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    return concurrency
