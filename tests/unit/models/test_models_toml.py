"""The store's TOML: what is written is what is read."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.store import dump_toml

# TOML holds Unicode scalar values, so no lone surrogates, and integers of 64 bits.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
TABLES = st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=4), max_size=5)


@given(values=TABLES, entries=st.lists(TABLES, min_size=1, max_size=3), table=TABLES)
def test_whatever_is_written_is_read_back(values: dict, entries: list[dict], table: dict) -> None:
    values = {f"value {key}": value for key, value in values.items()}

    text = dump_toml(values, lists={"entries": entries}, tables={"table": table})

    assert tomllib.loads(text) == values | {"entries": entries, "table": table}


@given(value=st.floats(allow_nan=False))
def test_a_float_stays_a_float_when_it_is_whole(value: float) -> None:
    read = tomllib.loads(dump_toml({"x": value}))["x"]

    assert isinstance(read, float)
    assert read == value


def test_a_value_that_toml_has_no_form_for_is_refused() -> None:
    with pytest.raises(TypeError, match="None"):
        dump_toml({"x": None})  # type: ignore[dict-item]  # the point of the test
