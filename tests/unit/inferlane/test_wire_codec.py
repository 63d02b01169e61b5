"""Requests and responses have the same bytes and values as aiokafka's own, in every version."""

from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol import types
from aiokafka.protocol.fetch import FetchRequest_v4, FetchResponse_v4
from aiokafka.protocol.struct import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlane.runtime.kafka.wire_codec import compile_schema, hot_structs, speed_up_codec

HOT = hot_structs()
# Versions often share a schema.
SCHEMAS = list({id(cls.SCHEMA): cls for cls in HOT}.values())
BITS = {types.Int8: 8, types.Int16: 16, types.Int32: 32, types.Int64: 64}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, type) and kind in BITS:
        limit = 1 << (BITS[kind] - 1)
        return st.integers(-limit, limit - 1)
    if isinstance(kind, types.Schema):
        return st.tuples(*map(values_of, kind.fields))
    if isinstance(kind, types.Array):
        return st.none() | st.lists(values_of(kind.array_of), max_size=3)
    if isinstance(kind, types.String):
        return st.none() | st.text(max_size=8)
    assert kind is types.Bytes, kind
    return st.none() | st.binary(max_size=8)


@pytest.fixture(autouse=True)
def sped_up() -> None:
    speed_up_codec(HOT)


@pytest.mark.parametrize("cls", HOT, ids=lambda cls: cls.__name__)
def test_every_hot_class_is_replaced(cls: type[Struct]) -> None:
    """A class with a field of an unknown kind would keep aiokafka's code."""
    assert "decode" in vars(cls)
    assert "encode" in vars(cls)


@pytest.mark.parametrize("cls", SCHEMAS, ids=lambda cls: cls.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_bytes_and_values_are_those_of_aiokafka(cls: type[Struct], data: st.DataObject) -> None:
    values = data.draw(values_of(cls.SCHEMA))
    original = cls.SCHEMA.encode(values)
    request: Any = cls.__new__(cls)
    request.__dict__.update(zip(cls.SCHEMA.names, values, strict=True))
    assert request.encode() == original

    behind = BytesIO(b"head" + original + b"tail")
    behind.seek(4)
    for found in (cls.decode(original), cls.decode(behind)):
        assert tuple(found.__dict__[name] for name in cls.SCHEMA.names) == cls.SCHEMA.decode(BytesIO(original))
    assert behind.read() == b"tail"


@pytest.mark.parametrize("cls", SCHEMAS, ids=lambda cls: cls.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_a_response_that_ends_early_is_refused_as_by_aiokafka(cls: type[Struct], data: st.DataObject) -> None:
    original = cls.SCHEMA.encode(data.draw(values_of(cls.SCHEMA)))
    cut = original[: data.draw(st.integers(0, len(original) - 1))]
    with pytest.raises(ValueError, match=r"."):
        cls.SCHEMA.decode(BytesIO(cut))
    with pytest.raises(ValueError, match=r"ends after|cannot be decoded"):
        cls.decode(cut)


def test_the_batches_of_a_fetch_are_views_of_the_response() -> None:
    """Guards `_read_bytes`: each copy of megabytes costs the worker a tenth of a millisecond a megabyte."""
    batches = b"batches" * 1_000
    partition = (0, 0, 9, 9, [], batches)
    response = FetchResponse_v4.SCHEMA.encode([0, [("topic", [partition])]])
    ((_, (found,)),) = FetchResponse_v4.decode(response).topics
    assert found[-1] == batches
    assert found[-1].obj is response


def test_a_number_out_of_range_is_refused() -> None:
    request = FetchRequest_v4(2**31, 1, 1, 1, 0, [])
    with pytest.raises(ValueError, match="FetchRequest_v4"):
        request.encode()


def test_a_field_of_another_kind_is_left_to_aiokafka() -> None:
    assert compile_schema(types.Schema(("tags", types.TaggedFields))) is None
