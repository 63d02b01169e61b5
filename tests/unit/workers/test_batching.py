"""Batches: each request gets its own rows back; a bad request fails alone."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import read_headers
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES
from inferlane.errors import ModelError
from tests.support.fakes.records import FakeRecord
from workers.batching import run_batch, split_by_rows, stack, unstack
from workers.requests import Request

ROWS = st.lists(st.integers(1, 6), min_size=1, max_size=30)


def make_requests(rows_each: list[int], poison: frozenset[int] = frozenset()) -> list[Request]:
    start = 0
    requests = []
    for index, rows in enumerate(rows_each):
        values = np.arange(start, start + rows, dtype=np.float32)
        if index in poison:
            values[:] = -1
        record = FakeRecord(offset=index)
        requests.append(
            Request(
                record=record,
                headers=read_headers(record),
                lane=Lane.REQUESTS,
                tensors={"x": values.reshape(-1, 1)},
                rows=rows,
                form=ALL_AS_BYTES,
            )
        )
        start += rows
    return requests


def double(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if (inputs["x"] < 0).any():
        raise ModelError("a row is below zero")
    return {"y": inputs["x"] * 2}


@given(ROWS)
def test_unstack_undoes_stack(rows_each: list[int]) -> None:
    requests = make_requests(rows_each)
    for request, own in zip(requests, unstack(stack(requests), requests), strict=True):
        np.testing.assert_array_equal(own["x"], request.tensors["x"])


@given(ROWS, st.integers(1, 10))
def test_batches_keep_the_order_and_the_limit(rows_each: list[int], limit: int) -> None:
    requests = make_requests(rows_each)
    batches = list(split_by_rows(requests, limit))
    assert [request for batch in batches for request in batch] == requests
    assert all(sum(request.rows for request in batch) <= limit or len(batch) == 1 for batch in batches)


@given(ROWS, st.data())
def test_a_bad_request_fails_alone(rows_each: list[int], data: st.DataObject) -> None:
    poison = data.draw(st.frozensets(st.integers(0, len(rows_each) - 1)))
    requests = make_requests(rows_each, poison)
    outcomes = run_batch(double, requests)
    assert [outcome.request for outcome in outcomes] == requests
    for index, outcome in enumerate(outcomes):
        if index in poison:
            assert outcome.error is not None
        else:
            assert outcome.outputs is not None
            np.testing.assert_array_equal(outcome.outputs["y"], requests[index].tensors["x"] * 2)


def test_one_culprit_costs_few_runs() -> None:
    runs = 0

    def counted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal runs
        runs += 1
        return double(inputs)

    run_batch(counted, make_requests([1] * 64, frozenset({17})))
    assert runs <= 2 * 6 + 1


def test_an_error_that_is_not_the_models_is_not_swallowed() -> None:
    def broken(_inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        run_batch(broken, make_requests([1, 1]))
