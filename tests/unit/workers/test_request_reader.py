"""Records that are read together are the requests, and have the errors, of records that are read one by one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.v2 import encode_binary_request
from models.catalog import ModelVersion
from tests.support.decoding import decode
from tests.support.fakes.records import FakeRecord, make_version
from workers.request_reader import RequestReader
from workers.requests import UNREADABLE, Request

IRIS = make_version()
PAIR = replace(
    IRIS,
    signature=Signature(
        inputs=(
            TensorSpec(name="count", datatype="INT64", shape=(-1,)),
            TensorSpec(name="input", datatype="FP32", shape=(-1, 4), allow_nan=True),
        ),
        outputs=IRIS.signature.outputs,
    ),
)


def record(payload: bytes, json_length: int | None, offset: int = 0) -> FakeRecord:
    length = () if json_length is None else ((JSON_LENGTH, str(json_length).encode()),)
    return FakeRecord(value=payload, headers=(("ce_id", b"id-%d" % offset), *length), offset=offset)


def of_rows(rows: list[list[float]], dtype: str = "f4", offset: int = 0) -> FakeRecord:
    return record(*encode_binary_request({"input": np.array(rows, dtype)}), offset)


def of_pair(counts: list[int], value: float) -> FakeRecord:
    rows = np.full((len(counts), 4), value, np.float32)
    return record(*encode_binary_request({"count": np.array(counts, np.int64), "input": rows}))


GOOD = of_rows([[1, 2, 3, 4]])
LONGER = FakeRecord(value=(GOOD.value or b"") + b"\0\0\0\0", headers=GOOD.headers)
NAMED = (
    b'{"model_name":"other","inputs":'
    b'[{"name":"input","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'
)
ODD = [
    of_rows([[1, float("nan"), 3, 4]]),
    of_rows([[3e38, 3e38, 3e38, 3e38]]),
    of_rows([[1, 2, 3, 4]], "f8"),
    of_rows([[1, 2, 3, 4]], "i8"),
    of_rows([[1, 2, 3]]),
    of_rows([]),
    LONGER,
    replace(GOOD, headers=GOOD.headers[:1]),
    replace(GOOD, value=None),
    record(NAMED + bytes(16), len(NAMED)),
    record(b'{"instances": [[1, 2, 3, 4]]}', None),
    record(b"no JSON at all", 7),
    record(b'{"inputs": []}', 14),
    of_pair([1], 2.0),
    of_pair([1, 2], float("nan")),
    replace(GOOD, headers=(("ce_attempt", b"many"),)),
]
ROWS = st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=3)
RECORDS = st.lists(st.sampled_from([GOOD, *ODD]) | ROWS.map(of_rows), max_size=12)


def one_by_one(records: list[FakeRecord], version: ModelVersion) -> tuple[list[Request], list[tuple[int, str, str]]]:
    read: list[Request] = []
    refused: list[tuple[int, str, str]] = []
    for one in records:
        try:
            read.append(decode(one, Lane.REQUESTS, version))
        except UNREADABLE as error:
            refused.append((id(one), error.code, str(error)))
    return read, refused


@given(records=RECORDS, version=st.sampled_from([IRIS, PAIR]))
@example(records=[GOOD, *ODD, GOOD], version=IRIS)
@example(records=[of_pair([1], 2.0), *ODD, of_pair([3], float("nan"))], version=PAIR)
def test_a_batch_is_read_as_its_records_are_one_by_one(records: list[FakeRecord], version: ModelVersion) -> None:
    """Fails where `TensorLayout.of` takes a body that `check_tensors` refuses or converts."""
    read, refused = RequestReader(version).read(records, Lane.REQUESTS)
    expected, errors = one_by_one(records, version)
    assert sorted((id(one), error.code, str(error)) for one, error in refused) == sorted(errors)
    assert len(read) == len(expected)
    for ours, theirs in zip(read, expected, strict=True):
        assert ours.record is theirs.record
        assert (ours.headers, ours.rows, ours.form) == (theirs.headers, theirs.rows, theirs.form)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, array in ours.tensors.items():
            other = theirs.tensors[name]
            assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_bodies_of_one_form_are_views_of_one_array() -> None:
    read, refused = RequestReader(IRIS).read([of_rows([[n, 0, 0, 0]], offset=n) for n in range(3)], Lane.REQUESTS)
    assert not refused
    first, *others = (request.tensors["input"] for request in read)
    assert first.base is not None
    assert all(array.base is first.base for array in others)


def test_a_large_body_is_read_where_it_lies() -> None:
    """Copying it into an array with others would cost more than it saves."""
    large = of_rows([[1, 2, 3, 4]] * 300)
    (request,), _ = RequestReader(IRIS).read([large], Lane.BULK)
    assert np.shares_memory(request.tensors["input"], np.frombuffer(large.value or b"", np.uint8))


def test_a_record_that_breaks_the_reading_is_refused_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the `except Exception` of `RequestReader.read`."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("workers.request_reader.decode_body", broken)
    read, refused = RequestReader(IRIS).read([GOOD, of_rows([[1, 2, 3]])], Lane.REQUESTS)
    assert [request.record for request in read] == [GOOD]
    ((_, error),) = refused
    assert "decoding failed: ZeroDivisionError" in str(error)
