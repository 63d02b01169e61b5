"""What the store keeps of a result is short, and is the same result again."""

from http import HTTPStatus

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inferlane.contracts.results import Result, Status, decode_accepted, decode_result, encode_result
from inferlane.contracts.wire.v2 import encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES, ALL_AS_JSON, ResponseForm
from inferlane.errors import DecodeError, InferlaneError
from producer_api.http.error_responses import status_of
from producer_api.predict.idempotency import _decode

IRIS = {"label": np.array([0], "<i8"), "probabilities": np.array([[0.98, 0.01, 0.01]], "<f4")}
NAMES = st.text(min_size=1, max_size=8)
ARRAYS = st.builds(
    lambda kind, shape: np.zeros(shape, kind),
    st.sampled_from(["<i8", "<f4", "<f2", "?"]),
    st.sampled_from([(1,), (1, 3), (2, 0), (3, 1, 2)]),
) | st.lists(st.text(max_size=4), min_size=1, max_size=3).map(lambda texts: np.array(texts, np.dtypes.StringDType()))
FORMS = st.sampled_from([ALL_AS_BYTES, ALL_AS_JSON]) | st.builds(
    ResponseForm, id=st.none() | NAMES, binary=st.booleans(), as_json=st.frozensets(st.just("a"))
)


def result_of(outputs: dict[str, np.ndarray], form: ResponseForm = ALL_AS_BYTES) -> Result:
    content, json_length = encode_response(outputs, model="iris", version="v1", form=form)
    return Result(
        request_id="58bf9338dfee8683803b16883bdd9f91",
        status=Status.SUCCEEDED,
        model="iris",
        version="v1",
        accepted_s=1_795_000_000.1,
        finished_s=1_795_000_000.2,
        queue_wait_s=0.01,
        inference_s=0.001,
        rows=1,
        content=content,
        json_length=json_length,
    )


@given(outputs=st.dictionaries(NAMES | st.just("a"), ARRAYS, min_size=1, max_size=4), form=FORMS)
def test_the_stored_result_is_the_same_again(outputs: dict[str, np.ndarray], form: ResponseForm) -> None:
    result = result_of(outputs, form)
    assert decode_result(encode_result(result)) == result


HEAD = (
    b'{"model_name":"iris","model_version":"v1","outputs":[{"name":"a","shape":[1],"datatype":"BOOL",'
    b'"parameters":{"binary_data_size":1}}]}'
)


@given(content=st.binary(max_size=60) | st.just(b"}}]}"), json_length=st.none() | st.integers(0, 90))
@example(content=HEAD + b"\1", json_length=len(HEAD))
@example(content=HEAD.replace(b":[", b": [") + b"\1", json_length=len(HEAD) + 2)
@example(content=HEAD.replace(b"v1", b"v2") + b"\1", json_length=len(HEAD))
@example(content=HEAD, json_length=len(HEAD) + 50)
def test_so_is_one_with_content_that_others_wrote(content: bytes, json_length: int | None) -> None:
    """An older worker, or a program that writes to the topic of results, may put anything there."""
    result = msgspec.structs.replace(result_of(IRIS), content=content, json_length=json_length)
    assert decode_result(encode_result(result)) == result


def test_a_small_result_takes_half_of_what_its_json_would() -> None:
    """352 and 157 bytes when this was written; the difference is what a store keeps of each request."""
    result = result_of(IRIS)
    assert len(encode_result(result)) < len(msgspec.msgpack.encode(result)) / 2


def test_the_store_is_read_as_before() -> None:
    result = result_of(IRIS)
    assert decode_result(msgspec.msgpack.encode(result)) == result


@pytest.mark.parametrize(
    ("content", "json_length"), [(b"", -1), (b"\x91" * 300, -300), (b"\x90\x90", -2), (b"\x91\x94", -(2**63))]
)
def test_a_damaged_short_form_is_an_error_of_ours(content: bytes, json_length: int) -> None:
    damaged = msgspec.structs.replace(result_of(IRIS), content=content, json_length=json_length)
    with pytest.raises(DecodeError, match="stored bytes"):
        decode_result(msgspec.msgpack.encode(damaged))


def test_damage_in_the_store_is_no_fault_of_the_client() -> None:
    """HTTP said 400 "The body cannot be read" to a `GET` that has no body."""
    with pytest.raises(InferlaneError, match="is damaged in the store") as caught:
        decode_accepted(b"\xc1")
    assert status_of(caught.value) == HTTPStatus.INTERNAL_SERVER_ERROR


def test_a_damaged_claim_of_an_idempotency_key_is_no_fault_of_the_client() -> None:
    with pytest.raises(InferlaneError, match="claim of the Idempotency-Key is damaged") as caught:
        _decode(b"\xc1")
    assert status_of(caught.value) == HTTPStatus.INTERNAL_SERVER_ERROR
