"""The format of a file of rows: encoding, delimiter and header, detected or given."""

import codecs
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from inferlane.errors import ConfigurationError, quoted

# As CSV writes numbers. Python's own `float` also reads `1_000`, `nan` and digits of other scripts.
NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[ \t]*[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?[ \t]*", re.ASCII)
# What others write where a value is missing.
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "?", "-", ".", "#n/a"})
# What names a column: its first letter or digit is a letter. Dates, amounts and percentages begin with a digit.
_NAME = re.compile(r"[\W_]*[^\W\d_]")
_VALUES_IN_WORDS = frozenset({"inf", "infinity", "true", "false"})
_DELIMITERS = ",;\t|"
_NAMED = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_SAMPLE_LINES = 100
_BLOCK_BYTES = 1024 * 1024
# In UTF-16 every second byte of a digit or comma is zero. A stray zero byte in other text is rarer than this.
_FEWEST_ZEROS = 1 / 8
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)


# How files begin that are no text, whatever they are called: no name of a column has such characters.
_NO_TEXT = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zip": re.compile(rb"PK\x03\x04"),
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "Zstandard": re.compile(rb"\x28\xb5\x2f\xfd"),
    "Parquet": re.compile(rb"PAR1[\x00-\x1f]"),
}
_MARK_BYTES = 10


class HeaderLine(StrEnum):
    """Whether the first line names the columns."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The options of the user; `auto` means detect. `missing` replaces missing values; None rejects their rows."""

    header: HeaderLine = HeaderLine.AUTO
    delimiter: str = "auto"
    encoding: str = "auto"
    missing: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The format of a file. `delimiter` is empty for JSON lines; `header` is None if there is none."""

    encoding: str
    encoding_said: str
    delimiter: str = ""
    header: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """Describe the format in one sentence."""
        if not self.encoding:
            return self.encoding_said
        if not self.delimiter:
            return f"JSON lines, {self.encoding_said}"
        names = "no header" if self.header is None else f"header {quoted(', '.join(self.header), limit_chars=100)}"
        shown = next((name for name, char in _NAMED.items() if char == self.delimiter), repr(self.delimiter))
        return f"CSV, {self.encoding_said}, delimiter {shown}, {names}"


def is_missing(field: str) -> bool:
    """Whether a field means that the value is missing."""
    return field.strip().lower() in _MISSING


def is_empty(line: str, delimiter: str) -> bool:
    """Whether a line is empty: not even delimiters, between which values could be missing."""
    return not line.strip() and not (delimiter and delimiter in line)


def fields_of(line: str, delimiter: str) -> list[str]:
    """Split one line, which is one row, into its fields.

    Raises:
        csv.Error: a quote is not closed in this line, or stands where none can.
    """
    return next(csv.reader([line], delimiter=delimiter, strict=True), [])


def find_format(path: Path, options: ReadOptions, *, width: int | None) -> Format:
    """Detect the format of the file; `width` is the number of values of a row, None for JSON lines.

    Raises:
        ConfigurationError: it cannot be read, or not so; the message says what to give.
    """
    try:
        _refuse_no_text(path)
        encoding, said = _encoding(path, options.encoding)
        if width is None:
            return Format(encoding=encoding, encoding_said=said)
        with path.open(encoding=encoding) as file:
            sample = [
                line
                for _, line in zip(range(_SAMPLE_LINES), (line for line in file if line.rstrip("\n")), strict=False)
            ]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"cannot read {path}: {error}. Name a readable file, and its encoding with --encoding."
        ) from error
    delimiter = _delimiter(path, options.delimiter, sample, width)
    sample = [line for line in sample if not is_empty(line, delimiter)]
    first = _fields_or_none(sample[0], delimiter) if sample else None
    has_header = bool(first) and (
        options.header is HeaderLine.YES or (options.header is HeaderLine.AUTO and _names_columns(first or []))
    )
    data = sample[1:] if has_header else sample
    _refuse_decimal_comma(path, data, delimiter)
    return Format(
        encoding=encoding,
        encoding_said=said,
        delimiter=delimiter,
        header=tuple(field.strip() for field in first or ()) if has_header else None,
    )


def _refuse_no_text(path: Path) -> None:
    """Return if the file may be text: as Latin-1, which any bytes are, it would be rows of nonsense."""
    with path.open("rb") as file:
        head = file.read(_MARK_BYTES)
    for name, mark in _NO_TEXT.items():
        if mark.match(head):
            remedy = "Call it .parquet" if name == "Parquet" else "Unpack it first"
            raise ConfigurationError(f"{path} is a {name} file, and no text as its name says. {remedy}")


def _encoding(path: Path, given: str) -> tuple[str, str]:
    if given != "auto":
        try:
            # Codecs that make something else of text, such as `base64`, are found by `lookup` too.
            "0".encode(given)
            name = codecs.lookup(given).name
        except (LookupError, UnicodeError):
            raise ConfigurationError(
                f"--encoding {quoted(given)} is no encoding; give utf-8, utf-16, latin-1 or another"
            ) from None
        # Reads UTF-8 with and without a mark.
        return ("utf-8-sig" if name == "utf-8" else name), given
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        head = file.read(_BLOCK_BYTES)
        for mark, encoding, said in _BOMS:
            if head.startswith(mark):
                return encoding, said
        if utf_16 := _utf_16_without_mark(head[:1024]):
            return utf_16, f"{utf_16.upper()} without a byte order mark"
        try:
            while head:
                decoder.decode(head)
                head = file.read(_BLOCK_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1", "Latin-1 (it is not UTF-8)"
    return "utf-8", "UTF-8"


def _utf_16_without_mark(head: bytes) -> str | None:
    """Return which UTF-16 the bytes are, or None: in UTF-16 the zeros are all in the same half of each unit."""
    high, low = head[0::2].count(0), head[1::2].count(0)
    if min(high, low) or max(high, low) < len(head) * _FEWEST_ZEROS or not head:
        return None
    return "utf-16-le" if low else "utf-16-be"


def _delimiter(path: Path, given: str, sample: Sequence[str], width: int) -> str:
    if given != "auto":
        delimiter = _NAMED.get(given.lower(), "\t" if given == "\\t" else given)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigurationError(
                f"--delimiter {quoted(given)} is not one character, or comma, semicolon, tab, pipe"
            )
        return delimiter
    if path.suffix.lower() == ".tsv":
        return "\t"
    # The one that cuts most lines into as many values as a row has.
    fits = {
        delimiter: sum(len(_fields_or_none(line, delimiter) or ()) == width for line in sample)
        for delimiter in _DELIMITERS
    }
    best = max(fits, key=fits.__getitem__)
    if fits[best]:
        return best
    # None does: the rows will be refused one by one, and should be cut as whoever wrote them meant.
    return max(_DELIMITERS, key=lambda delimiter: sum(line.count(delimiter) for line in sample))


def _names_columns(fields: Sequence[str]) -> bool:
    """Whether these are names: one number among them, or nothing but values, and it is a row with an odd value."""
    has_number = any(NUMBER.fullmatch(field) or _DECIMAL_COMMA.fullmatch(field) for field in fields)
    return not has_number and any(map(_is_name, fields))


def _is_name(field: str) -> bool:
    return bool(_NAME.match(field)) and not (is_missing(field) or field.strip(" \t+-").lower() in _VALUES_IN_WORDS)


def _refuse_decimal_comma(path: Path, sample: Sequence[str], delimiter: str) -> None:
    for line in sample:
        for field in _fields_or_none(line, delimiter) or ():
            if delimiter != "," and _DECIMAL_COMMA.fullmatch(field):
                raise ConfigurationError(
                    f"{path} writes numbers with a decimal comma, as in {quoted(field.strip())}; write a point instead "
                    f"({field.strip().replace(',', '.')}). Nothing was sent."
                )


def _fields_or_none(line: str, delimiter: str) -> list[str] | None:
    try:
        return fields_of(line, delimiter)
    except csv.Error:
        return None
