"""Messages of the gRPC form: how they are compiled, values both ways, any bytes at all, and the code of each error."""

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inferlane.contracts.results import CANCELLED, EXPIRED, Result, Status
from inferlane.contracts.wire.tensors import DATATYPES, numpy_dtype
from inferlane.contracts.wire.v2 import decode_request, encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import DecodeError, InferlaneError, OverloadedError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.store_reader import load_catalog
from producer_api.grpc_server import protocol_messages
from producer_api.grpc_server.call_status import status_of_error, status_of_result
from producer_api.grpc_server.infer_messages import InferMessages
from producer_api.grpc_server.protocol_messages import InferRequest, InferResponse, parsed
from producer_api.grpc_server.tensor_contents import fill_contents, from_contents, has_field
from producer_api.http.error_responses import GRPC_CODES, PROBLEMS
from producer_api.inference_protocol.infer_format import AskedOutputs
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.call import CallReader
from producer_api.predict.call_options import CallOrigin
from tests.support.fakes.stores import write_tiny_store
from tests.support.grpc_calls import infer_request

NO_ORIGIN = CallOrigin()
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> InferMessages:
    folder = tmp_path_factory.mktemp("store")
    write_tiny_store(folder)
    settings = load_settings(models_dir=folder, default_model="tiny")
    catalog = load_catalog(folder, default_model="tiny")
    calls = CallReader(
        settings.api, settings.kafka, settings.webhooks, catalog=catalog, splits=SplitTable(), clock=SystemClock()
    )
    return InferMessages(settings.api, InferReader(settings.api, calls), AskedOutputs(catalog))


def test_the_descriptors_are_those_of_the_source(tmp_path: Path) -> None:
    folder = Path(protocol_messages.__file__).parent
    source, made = folder / "open_inference.proto", tmp_path / "made.binpb"
    assert protoc.main(["protoc", f"--proto_path={folder}", f"--descriptor_set_out={made}", str(source)]) == 0
    assert made.read_bytes() == source.with_suffix(".binpb").read_bytes(), "run scripts/compile_proto.py"


def test_clients_that_register_the_same_messages_can_be_loaded_beside_them() -> None:
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 - after ours

    assert service_pb2.ModelInferRequest.DESCRIPTOR.full_name == InferRequest.DESCRIPTOR.full_name


@pytest.mark.parametrize("datatype", DATATYPES)
def test_values_of_each_datatype_go_both_ways(datatype: str) -> None:
    dtype = numpy_dtype(datatype)
    if dtype.kind == "T":
        array = np.array([["a", ""], ["ü", "x" * 40]], dtype)
    elif dtype.kind in "iu":
        array = np.array([[np.iinfo(dtype).min, 0], [1, np.iinfo(dtype).max]], dtype)
    else:
        array = np.array([[0, 1], [1, 0]], dtype)
    tensor = InferRequest().inputs.add()
    if not has_field(datatype):
        assert datatype == "FP16"
        with pytest.raises(DecodeError, match="raw_input_contents"):
            from_contents("x", datatype, [2, 2], tensor.contents)
        return
    fill_contents(tensor.contents, datatype, array)
    back = from_contents("x", datatype, [2, 2], tensor.contents)
    assert back.dtype == dtype
    assert back.tolist() == array.tolist()


@given(values=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_call_is_the_same_as_raw_bytes_and_as_a_list(messages: InferMessages, values: np.ndarray) -> None:
    calls = [messages.read(infer_request(values, raw=raw), NO_ORIGIN, left_s=None) for raw in (True, False)]
    for call in calls:
        (sent,) = decode_request(call.payload, call.json_length).tensors.values()
        assert np.array_equal(sent, values)
    assert calls[0].form != calls[1].form


@pytest.mark.parametrize(
    ("field", "value", "datatype"),
    [("int_contents", 128, "INT8"), ("uint_contents", 256, "UINT8"), ("int_contents", 1 << 15, "INT16")],
)
def test_a_value_out_of_the_range_of_its_datatype_is_refused(field: str, value: int, datatype: str) -> None:
    contents = InferRequest().inputs.add().contents
    getattr(contents, field).append(value)
    with pytest.raises(DecodeError, match="out of the range"):
        from_contents("x", datatype, [1], contents)


def test_bytes_in_a_list_need_be_text_only_where_the_input_is_text() -> None:
    contents = InferRequest().inputs.add().contents
    contents.bytes_contents.append(b"\xff\x00")

    assert from_contents("x", "BYTES", [1, 1], contents, is_text=False).tolist() == [[b"\xff\x00"]]
    with pytest.raises(DecodeError, match="no UTF-8"):
        from_contents("x", "BYTES", [1, 1], contents)


def test_values_in_the_field_of_another_datatype_are_refused(messages: InferMessages) -> None:
    request = infer_request(raw=False)
    request.inputs[0].contents.int64_contents.append(1)
    with pytest.raises(DecodeError, match="goes in fp32_contents, and its contents have int64_contents"):
        messages.read(request, NO_ORIGIN, left_s=None)


def _changed(change: Any) -> Any:
    request = infer_request()
    change(request)
    return request


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (_changed(lambda r: r.ClearField("inputs")), "no inputs"),
        (_changed(lambda r: r.raw_input_contents.append(b"")), "raw_input_contents has 2 tensors"),
        (_changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)), "both contents and raw_input_contents"),
        (_changed(lambda r: r.inputs[0].shape.append(1)), "has shape"),
        (_changed(lambda r: r.inputs[0].__setattr__("datatype", "BF16")), "BF16"),
        (_changed(lambda r: r.inputs.append(r.inputs[0])), "two of the inputs"),
        (_changed(lambda r: r.parameters["x"].__setattr__("bool_param", True)), "unknown field `x`"),
        (_changed(lambda r: r.parameters["timeout_s"].SetInParent()), "has no value"),
        (_changed(lambda r: r.parameters["timeout_s"].__setattr__("string_param", "1")), "timeout_s"),
        (_changed(lambda r: r.outputs.add(name="x")), "no output is called 'x'"),
        (_changed(lambda r: r.outputs.add(name="probabilities").parameters["binary_data"].__setattr__("bool_param", 1)),
         "all outputs go in one way"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(messages: InferMessages, request_: Any, said: str) -> None:
    with pytest.raises(InferlaneError, match=re.escape(said)) as caught:
        messages.read(request_, NO_ORIGIN, left_s=None)
    assert caught.value.asked_for[0] == request_.model_name


@pytest.mark.parametrize("asked_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_that_no_request_may_have_is_refused_beside_grpcs_own(
    messages: InferMessages, asked_s: float
) -> None:
    """The earlier of the two counted, so a NaN or a year was not seen, and the error of -1 named another parameter."""
    with pytest.raises(InferlaneError, match=re.escape(f"deadline_s is {asked_s}")):
        messages.read(infer_request(deadline_s=asked_s), NO_ORIGIN, left_s=5.0)


def code_of(messages: InferMessages, raw: bytes) -> Any:
    """What a call of these bytes ends with before it is submitted; anything but a refusal of ours fails the test."""
    try:
        messages.read(parsed(InferRequest, raw), NO_ORIGIN, left_s=1.0)
    except InferlaneError as error:
        return status_of_error(error).code
    return grpc.StatusCode.OK


@given(raw=st.binary(max_size=200))
@example(raw=infer_request().SerializeToString())
def test_any_bytes_are_a_call_or_a_refusal(messages: InferMessages, raw: bytes) -> None:
    assert code_of(messages, raw) in {grpc.StatusCode.OK, *REFUSALS}


@given(data=st.data())
def test_a_message_with_bytes_changed_is_a_call_or_a_refusal(messages: InferMessages, data: st.DataObject) -> None:
    raw = bytearray(infer_request(timeout_s=1.0, routing_key="k").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert code_of(messages, bytes(raw)) in {grpc.StatusCode.OK, *REFUSALS}


@pytest.mark.parametrize(
    ("asked_s", "left_s", "lives_s", "waits_s"),
    [
        (None, None, 300.0, 10.0),
        (None, 5.0, 5.0, 5.0),
        (2.0, 5.0, 2.0, 2.0),
        (50.0, 5.0, 5.0, 5.0),
        (None, 1e9, 86_400.0, 60.0),
    ],
)
def test_a_request_lives_and_its_call_waits_until_the_earlier_deadline(
    messages: InferMessages, asked_s: float | None, left_s: float | None, lives_s: float, waits_s: float
) -> None:
    parameters = {} if asked_s is None else {"deadline_s": asked_s}
    call = messages.read(infer_request(**parameters), NO_ORIGIN, left_s=left_s)
    assert call.deadline_s - call.accepted_s == pytest.approx(lives_s, abs=1e-3)
    assert call.wait_s == waits_s


def test_a_result_is_written_in_the_form_that_the_call_asked_for(messages: InferMessages) -> None:
    outputs = {"probabilities": np.array([[0.1, 0.7, 0.2]], np.float32)}
    content, length = encode_response(outputs, model="tiny", version="v1", form=ALL_AS_BYTES)
    result = Result(
        request_id="r", status=Status.SUCCEEDED, model="tiny", version="v1", content=content, json_length=length
    )
    request = infer_request()
    request.id = "mine"
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    response = InferResponse.FromString(messages.write(messages.read(request, NO_ORIGIN, left_s=None), result))
    assert (response.id, response.outputs[0].datatype, list(response.outputs[0].shape)) == ("mine", "BYTES", [1, 2])
    first = response.raw_output_contents[0]
    assert first[4 : 4 + first[0]] == b"0.700000:1:b"


def test_every_status_of_http_has_a_code() -> None:
    statuses = {status for kind in PROBLEMS.values() for status in (kind.status, kind.result_status) if status}
    assert statuses <= GRPC_CODES.keys()
    assert {GRPC_CODES[status] for status in statuses} <= {code.name for code in grpc.StatusCode}


def test_an_error_says_its_reason_and_when_to_come_back() -> None:
    status = status_of_error(OverloadedError("full", retry_after_s=2.5))
    trailers: dict[str, Any] = dict(status.trailers)
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    assert details.details[1].Unpack(retry)
    assert (status.code, details.code, details.message) == (grpc.StatusCode.UNAVAILABLE, 14, "full")
    assert (info.reason, info.domain, retry.retry_delay.seconds) == ("OVERLOADED", "inferlane", 3)
    assert (trailers["retry-after"], trailers["grpc-retry-pushback-ms"]) == ("3", "3000")


@pytest.mark.parametrize(
    ("code", "status"),
    [(CANCELLED, "CANCELLED"), (EXPIRED, "DEADLINE_EXCEEDED"), ("model_error", "INTERNAL"), (None, "INTERNAL")],
)
def test_a_request_that_failed_has_the_code_of_its_error(code: str | None, status: str) -> None:
    result = Result(request_id="r", status=Status.FAILED, model="tiny", version="", error_code=code, error_detail="x")
    assert status_of_result(result).code.name == status


@pytest.mark.parametrize("character", ["x", "ü", "模", "😀"])
def test_the_trailers_of_the_longest_message_fit_what_clients_take(character: str) -> None:
    status = status_of_error(InferlaneError(character * 2_000))
    sent = sum(len(name) + len(value) * 4 // 3 for name, value in status.trailers)
    percent_encoded = sum(1 if byte < 0x80 else 3 for byte in status.message.encode())
    assert sent + percent_encoded < 8 * 1024
