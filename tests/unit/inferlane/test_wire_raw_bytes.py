"""Inputs of raw bytes: base64 in JSON, the bytes themselves in binary tensors, and the same array of both."""

import base64
from typing import Any

import msgspec
import numpy as np
import pytest

from inferlane.contracts.wire.row_texts import text_of, tokens_of
from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.v1 import decode_instances
from inferlane.contracts.wire.v2 import decode_request, encode_binary_request
from inferlane.errors import DecodeError, InvalidInputError

RAW = b"\xff\xd8 no text \x00"
IMAGE = TensorSpec(name="image", datatype="BYTES", shape=(-1, 1), is_binary=True)
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
SIGNATURE = Signature(inputs=(IMAGE,), outputs=(SCORES,), raw_inputs=frozenset({"image"}))
TEXT = base64.b64encode(RAW).decode()


@pytest.mark.parametrize("instances", [[TEXT, TEXT], [[TEXT], [TEXT]]])
def test_base64_in_json_becomes_bytes(instances: list[Any]) -> None:
    tensors = decode_instances(msgspec.json.encode(instances), SIGNATURE)

    assert tensors["image"].tolist() == [[RAW], [RAW]]
    assert check_tensors(tensors, SIGNATURE) == 2


def test_bytes_go_through_a_binary_record_as_they_are() -> None:
    tensors = decode_instances(msgspec.json.encode([TEXT]), SIGNATURE)

    payload, json_length = encode_binary_request(tensors)
    read = decode_request(payload, json_length, SIGNATURE).tensors

    assert RAW in payload
    assert read["image"].tolist() == [[RAW]]
    assert check_tensors(read, SIGNATURE) == 1


def test_base64_in_the_json_of_v2_becomes_bytes() -> None:
    body = {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT]}]}

    assert decode_request(msgspec.json.encode(body), None, SIGNATURE).tensors["image"].tolist() == [[RAW]]


def test_what_is_not_base64_is_refused_by_its_row() -> None:
    with pytest.raises(InvalidInputError, match=r"instances\[1\] holds 'no base64!', which is not base64"):
        decode_instances(msgspec.json.encode([TEXT, "no base64!"]), SIGNATURE)


def test_an_input_of_text_takes_no_bytes_that_are_not_utf_8() -> None:
    text = Signature(inputs=(TensorSpec(name="image", datatype="BYTES", shape=(-1, 1)),), outputs=(SCORES,))
    payload, json_length = encode_binary_request({"image": np.array([[RAW]], object)})

    with pytest.raises(DecodeError, match="no UTF-8"):
        decode_request(payload, json_length, text)


def test_raw_bytes_and_text_never_share_traffic() -> None:
    text = Signature(inputs=(TensorSpec(name="image", datatype="BYTES", shape=(-1, 1)),), outputs=(SCORES,))

    assert SIGNATURE.misfit(text) is not None
    assert SIGNATURE.misfit(SIGNATURE) is None


def test_tokens_travel_as_text() -> None:
    assert tokens_of(text_of([101, 7, 0])) == [101, 7, 0]
    assert tokens_of("tokens 101") is None


@pytest.mark.parametrize("ids", ["", "1 x", "-1", "1  2", "9999999999", "\u0661"])
def test_what_begins_like_tokens_and_is_none_is_refused(ids: str) -> None:
    with pytest.raises(InvalidInputError, match="whole numbers"):
        tokens_of(text_of([]) + ids)
