"""TOML text of flat settings: the half of TOML 1.0 that the store needs, and nothing else.

The standard library reads TOML and does not write it. What the store writes is scalars, lists of scalars, tables of
those, and lists of tables.
"""

import json
import math
from collections.abc import Mapping, Sequence

Scalar = str | int | float | bool
Value = Scalar | Sequence[Scalar]
Table = Mapping[str, Value]


def dump_toml(
    values: Table, *, tables: Mapping[str, Table] | None = None, lists: Mapping[str, Sequence[Table]] | None = None
) -> str:
    """TOML text with `values` at the top, each of `lists` as `[[name]]` entries and each of `tables` as `[name]`.

    `tomllib.loads` of the text gives back the same values. A name may appear in only one of the three.

    Raises:
        TypeError: a value is none of those that the store holds.
    """
    sections = [_lines(values)]
    for name, entries in (lists or {}).items():
        sections.extend([f"[[{_key(name)}]]", *_lines(entry)] for entry in entries)
    for name, table in (tables or {}).items():
        sections.append([f"[{_key(name)}]", *_lines(table)])
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _lines(table: Table) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in table.items()]


def _key(name: str) -> str:
    # A bare key is ASCII letters, digits, `_` and `-`; any other is quoted (TOML 1.0, "Keys").
    bare = name and name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare or name in {"_", "-"} else _string(name)


def _value(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return str(value)
        case float():
            return _float(value)
        case Sequence():
            return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"{value!r} ({type(value).__name__}) has no form in the store's TOML")


def _float(value: float) -> str:
    # `float()` first: the repr of a numpy float is no TOML. Python and TOML agree on nan and inf as words.
    text = repr(float(value))
    return text if not math.isfinite(value) or "." in text or "e" in text else f"{text}.0"


def _string(value: str) -> str:
    # JSON escapes what TOML escapes, but for DEL, which TOML wants escaped and JSON does not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
