"""The columns of a CSV file: which value of a model each is, and how its fields become the JSON of a row."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from control_plane.bulk.formats import NUMBER, is_missing
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, quoted

# Past this a float no longer holds each whole number.
_EXACT_INTEGERS = 2.0**53
# No datatype has more digits; a longer number is out of range anyway.
_INTEGER = re.compile(r"[ \t]*[+-]?[0-9]{1,30}[ \t]*", re.ASCII)
_FLAGS = frozenset({"true", "false"})
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumn:
    """What a field may hold. `name` is its key where rows are objects; `may_lack` says that a default stands for it."""

    name: str
    holds_text: bool = False
    holds_flag: bool = False
    # Whole numbers, each of which counts: a float holds them up to 2**53 only.
    holds_integer: bool = False
    categories: frozenset[str] = frozenset()
    takes_missing: bool = False
    may_lack: bool = False

    def json(self, field: str, *, missing: float | None) -> str | None:
        """The field in JSON, None if it is to be left out; `missing` stands for missing numbers.

        Raises:
            ValueError: it holds neither a number nor, where that is allowed, nothing; the message says what.
        """
        if self.holds_text and (field in self.categories or not (self.may_lack and is_missing(field))):
            return _encode(field).decode()
        value = self._flag(field) if self.holds_flag else self._number(field)
        if value is not None:
            return value
        if not is_missing(field):
            reason = "out of range" if NUMBER.fullmatch(field) else "no number"
            raise ValueError(f"{quoted(field)} is {'neither true nor false' if self.holds_flag else reason}")
        if missing is not None:
            return _json_number(missing)
        if self.may_lack:
            return None
        if self.takes_missing:
            return "null"
        raise ValueError(
            f"the value is missing ({quoted(field)}); fill it in, or give a number for such values with --missing"
        )

    @staticmethod
    def _flag(field: str) -> str | None:
        flag = field.strip(" \t").lower()
        return flag if flag in _FLAGS else None

    def _number(self, field: str) -> str | None:
        if self.holds_integer and _INTEGER.fullmatch(field):
            return str(int(field))
        if not (NUMBER.fullmatch(field) and math.isfinite(float(field))):
            return None
        # Of whole numbers there is one zero.
        return _json_number(float(field) + 0.0 if self.holds_integer else float(field))


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumns:
    """The columns in the order of the file.

    `are_named` where a row is an object with a field for each, `are_rows` where the only column is the row itself.
    """

    columns: tuple[CsvColumn, ...]
    are_named: bool = False
    are_rows: bool = False

    @property
    def hold_text(self) -> bool:
        """Whether a field may be any text, so that a first line of texts may be a row."""
        return any(column.holds_text for column in self.columns)

    @property
    def names(self) -> frozenset[str]:
        """What a header may call them."""
        return frozenset(column.name for column in self.columns)

    def in_order_of(self, header: Sequence[str] | None, path: Path) -> "CsvColumns":
        """The columns as a header names them; as they are without one, or where it calls them otherwise.

        Raises:
            ConfigurationError: the header lacks a column, or names one twice or that there is not.
        """
        if header is None or not self.are_named or (len(header) == len(self.columns) and not self.names & set(header)):
            return self
        by_name = {column.name: column for column in self.columns}
        unknown = [name for name in header if name not in by_name]
        lacking = [name for name, column in by_name.items() if name not in header and not column.may_lack]
        if unknown or lacking or len(set(header)) < len(header):
            what = (
                f"names {', '.join(map(quoted, unknown[:5]))}"
                if unknown
                else f"lacks {', '.join(map(quoted, lacking[:5]))}"
                if lacking
                else "names a column twice"
            )
            raise ConfigurationError(
                f"the header of {path} {what}; the model takes: {', '.join(by_name)}. Correct the header"
            )
        return CsvColumns(columns=tuple(by_name[name] for name in header), are_named=True)

    def json(self, fields: Sequence[str], *, missing: float | None) -> str:
        """A row in JSON.

        Raises:
            FieldError: a field does not fit its column.
        """
        values = []
        for at, (column, field) in enumerate(zip(self.columns, fields, strict=True)):
            try:
                value = column.json(field, missing=missing)
            except ValueError as error:
                raise FieldError(at, str(error)) from error
            if value is not None:
                values.append(f"{_encode(column.name).decode()}:{value}" if self.are_named else value)
        return f"{{{','.join(values)}}}" if self.are_named else self.row_of(",".join(values))

    def row_of(self, values: str) -> str:
        """The JSON of a row without names from that of its values."""
        return values if self.are_rows else f"[{values}]"


class FieldError(ValueError):
    """A field does not fit: the index of its column, and why."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def columns_of(path: Path, signature: Signature) -> CsvColumns:
    """The columns that a model's rows have in a CSV file.

    Raises:
        ConfigurationError: its rows are no rows of a table.
    """
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and first.columns:
        return CsvColumns(
            are_named=True,
            columns=tuple(
                CsvColumn(
                    name=column.name,
                    holds_text=bool(column.categories),
                    holds_integer=first.kind == "INT",
                    categories=frozenset(column.categories),
                    takes_missing=first.allow_nan,
                    may_lack=column.default is not None,
                )
                for column in first.columns
            ),
        )
    if len(signature.inputs) == 1 and not first.row_shape:
        return CsvColumns(are_rows=True, columns=(_column(first, first.name),))
    if len(signature.inputs) == 1 and len(first.row_shape) == 1 and first.row_shape[0] > 0:
        (width,) = first.row_shape
        return CsvColumns(columns=tuple(_column(first, first.name) for _ in range(width)))
    if len(signature.inputs) > 1 and all(spec.row_shape in {(), (1,)} for spec in signature.inputs):
        return CsvColumns(are_named=True, columns=tuple(_column(spec, spec.name) for spec in signature.inputs))
    raise ConfigurationError(f"{path}: CSV holds rows of single values only; use .jsonl for this model's inputs")


def plain_row(columns: CsvColumns | None, signature: Signature, delimiter: str) -> Callable[[str], object]:
    """Return what matches a line whose fields are all numbers as JSON spells them, which most lines are.

    Not minus zero, and a fraction only for a model that takes one: there JSON means something else than CSV.
    """
    if columns is None or columns.are_named or columns.hold_text:
        return lambda _: None
    fraction = r"(?:\.\d{1,20})?" if signature.inputs[0].datatype.startswith("FP") else ""
    number = rf"(?!-0(?:\.0*)?(?![\d.]))-?(?:0|[1-9]\d{{0,14}}){fraction}"
    fields = re.escape(delimiter).join([number] * len(columns.columns))
    return re.compile(fields, re.ASCII).fullmatch


def _column(spec: TensorSpec, name: str) -> CsvColumn:
    return CsvColumn(
        name=name,
        holds_text=spec.kind == "BYTES",
        holds_flag=spec.kind == "BOOL",
        holds_integer=spec.kind == "INT",
        takes_missing=spec.allow_nan,
    )


def _json_number(number: float) -> str:
    """A number as JSON spells it: `.5`, `+1` and `007` are numbers in CSV alone."""
    is_minus_zero = number == 0 and math.copysign(1, number) < 0
    is_plain = number.is_integer() and abs(number) < _EXACT_INTEGERS and not is_minus_zero
    return str(int(number)) if is_plain else repr(number)
