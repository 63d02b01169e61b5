"""Messages that lie about themselves, over REST and gRPC: shapes, lengths and counts that their bytes do not have.

A call is read as its bytes are, or refused with a client's error, and no memory is allocated for what is not there.
"""

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.wire.tensors import DATATYPES
from inferlane.contracts.wire.v2 import decode_request
from inferlane.errors import InferlaneError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from producer_api.grpc_server.infer_messages import InferMessages
from producer_api.grpc_server.protocol_messages import InferRequest
from producer_api.http.error_responses import status_of
from producer_api.inference_protocol.infer_format import AskedOutputs, V2Format
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.call import Call, CallReader
from producer_api.predict.call_options import CallOrigin
from tests.support.fakes.records import make_catalog

SETTINGS = load_settings()
CATALOG = make_catalog(models=("iris",))
READER = InferReader(
    SETTINGS.api,
    CallReader(
        SETTINGS.api, SETTINGS.kafka, SETTINGS.webhooks, catalog=CATALOG, splits=SplitTable(), clock=SystemClock()
    ),
)
REST = V2Format(READER, CATALOG)
GRPC = InferMessages(SETTINGS.api, READER, AskedOutputs(CATALOG))
COLUMNS = 4
# A message of a few hundred bytes may cost this much, and no more, whatever sizes it names.
ENOUGH_BYTES = 4 * 1024 * 1024

_LARGE = (2**31 - 1, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, -(2**63))
sizes = st.one_of(st.integers(-3, 6), st.sampled_from(_LARGE), st.just(COLUMNS))
shapes = st.one_of(st.lists(sizes, max_size=5), st.tuples(st.integers(0, 5), st.just(COLUMNS)).map(list))
datatypes = st.one_of(st.just("FP32"), st.sampled_from(DATATYPES), st.sampled_from(["BF16", "", "fp32", "FP32\0"]))
contents = st.one_of(st.binary(max_size=100), st.integers(0, 6).map(lambda rows: bytes(16 * rows)))


def outcome(read: Any) -> Call | None:
    """The call, or None if it is refused; any other error fails the test, and so does memory for what is not there."""
    tracemalloc.start()
    try:
        call: Call = read()
    except InferlaneError as error:
        # A client's error: one of ours would wake somebody.
        if not 400 <= status_of(error) < 500:
            raise
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < ENOUGH_BYTES
    return call


def is_as_its_bytes(call: Call, shape: list[int], raw: bytes) -> None:
    """A call that was let in has the shape that it named, and exactly the values that were sent."""
    (sent,) = decode_request(call.payload, call.json_length).tensors.values()
    assert list(sent.shape) == shape
    assert sent.shape[1:] == (COLUMNS,)
    assert sent.astype(np.float32).size == math.prod(shape)
    if sent.dtype == np.float32 and len(raw) == sent.nbytes:
        assert sent.tobytes() == raw


def is_honest(shape: list[int], datatype: str, size_bytes: int) -> bool:
    """Whether a call of that shape must be let in: rows for the model, with the bytes of their values."""
    return datatype == "FP32" and [*shape[:1], COLUMNS] == shape and shape[0] > 0 and size_bytes == 16 * shape[0]


@given(shape=shapes, datatype=datatypes, raw=contents, extra=st.integers(0, 2))
@example(shape=[2**62, 4], datatype="FP32", raw=b"", extra=0)
@example(shape=[-1, -4], datatype="FP32", raw=bytes(16), extra=0)
@example(shape=[1, 4], datatype="FP32", raw=bytes(16), extra=0)
def test_raw_contents_over_grpc_are_what_the_shape_says_or_refused(
    shape: list[int], datatype: str, raw: bytes, extra: int
) -> None:
    request = InferRequest(model_name="iris")
    request.inputs.add(name="input", datatype=datatype, shape=shape)
    request.raw_input_contents.extend([raw, *[b""] * extra])
    call = outcome(lambda: GRPC.read(request, CallOrigin(), left_s=None))
    if call is not None:
        assert not extra
        is_as_its_bytes(call, shape, raw)
    else:
        assert extra or not is_honest(shape, datatype, len(raw))


@given(shape=shapes, count=st.integers(0, 20))
@example(shape=[2**62, 4], count=0)
@example(shape=[-1, 4], count=4)
@example(shape=[2, 4], count=8)
def test_listed_contents_over_grpc_are_what_the_shape_says_or_refused(shape: list[int], count: int) -> None:
    request = InferRequest(model_name="iris")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=shape)
    tensor.contents.fp32_contents.extend([1.5] * count)
    call = outcome(lambda: GRPC.read(request, CallOrigin(), left_s=None))
    if call is not None:
        is_as_its_bytes(call, shape, np.full(count, 1.5, np.float32).tobytes())
    else:
        assert not is_honest(shape, "FP32", 4 * count)


numbers = st.one_of(st.integers(-2, 200), st.sampled_from(_LARGE), st.none(), st.text(max_size=3), st.booleans())


@given(shape=shapes, datatype=datatypes, size=numbers, raw=contents, off=st.integers(-60, 60))
@example(shape=[1, 4], datatype="FP32", size=16, raw=bytes(16), off=0)
@example(shape=[1, 4], datatype="FP32", size=16, raw=bytes(16), off=1)
@example(shape=[1, 4], datatype="FP32", size=2**63 - 1, raw=bytes(16), off=0)
@example(shape=[2**62, 4], datatype="FP32", size=0, raw=b"", off=0)
def test_a_binary_part_over_rest_is_what_its_head_says_or_refused(
    shape: list[int], datatype: str, size: Any, raw: bytes, off: int
) -> None:
    entry = {"name": "input", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry]}).encode()
    path = {
        "path": "/v2/models/iris/infer",
        "headers": [(b"inference-header-content-length", b"%d" % (len(head) + off))],
    }
    call = outcome(lambda: REST.read(path, head + raw, CallOrigin()))
    if call is not None:
        assert (off, size) == (0, len(raw))
        is_as_its_bytes(call, shape, raw)
    else:
        assert off or size != len(raw) or not is_honest(shape, datatype, len(raw))


@pytest.mark.parametrize("length", [b"", b"-1", b"1e3", b"0x10", b"99999999999999999999", b" 12", b"\xb2", b"1_0"])
def test_a_length_of_the_head_that_is_none_is_refused(length: bytes) -> None:
    path = {"path": "/v2/models/iris/infer", "headers": [(b"inference-header-content-length", length)]}
    assert outcome(lambda: REST.read(path, b'{"inputs": []}', CallOrigin())) is None
