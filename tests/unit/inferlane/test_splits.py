"""Traffic splits: known versions, honest weights, read your writes."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.traffic_split import Shadow, Split, decode_split, make_split, shares_of, weights_in_force
from inferlane.errors import DecodeError, InvalidSplitError, UnavailableError
from inferlane.runtime.split_table import SplitTable

KNOWN = ("v1", "v2")


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6))
def test_weights_are_normalised_to_one(first: float, second: float) -> None:
    split = make_split("iris", {"v1": first, "v2": second}, known=KNOWN, changed_s=1.0)
    assert sum(split.weights.values()) == pytest.approx(1.0)
    assert all(weight >= 0 for weight in split.weights.values())


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"v9": 1.0}, "no version 'v9'"),
        ({"v1": -1.0, "v2": 2.0}, "-1.0"),
        ({"v1": 0.0, "v2": 0.0}, "sum to 0"),
        ({}, "sum to 0"),
        ({"v1": float("nan")}, "nan"),
        ({"v1": float("inf")}, "inf"),
        ({"v1": 1e308, "v2": 1e308}, "sum to inf"),
    ],
)
def test_weights_that_make_no_split_are_refused_with_the_reason(weights: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidSplitError, match=says):
        make_split("iris", weights, known=KNOWN, changed_s=1.0)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_decode_errors(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_split(raw)


GOOD = b'{"model":"iris","weights":{"v1":1.0}}'


async def test_the_last_record_of_a_model_holds_and_a_tombstone_removes_it() -> None:
    table = SplitTable()
    await table.apply(0, b"iris", GOOD)
    await table.apply(1, b"iris", b'{"model":"iris","weights":{"v2":1.0}}')
    held = table.get("iris")
    assert held is not None
    assert held.weights == {"v2": 1.0}
    await table.apply(2, b"iris", None)
    assert table.get("iris") is None


async def test_a_record_that_cannot_be_read_changes_nothing_and_does_not_stop_the_table() -> None:
    table = SplitTable()
    await table.apply(0, b"iris", GOOD)
    await table.apply(1, b"iris", b"garbage")
    assert table.get("iris") is not None
    await table.wait_applied(1, timeout_s=1)


async def test_a_writer_waits_until_its_own_record_is_in_force() -> None:
    table = SplitTable()
    waiting = asyncio.create_task(table.wait_applied(3, timeout_s=5))
    await table.apply(2, b"iris", GOOD)
    await asyncio.sleep(0)
    assert not waiting.done()
    await table.apply(3, b"iris", GOOD)
    await waiting


async def test_a_table_that_does_not_hear_of_the_record_says_so() -> None:
    with pytest.raises(UnavailableError):
        await SplitTable().wait_applied(0, timeout_s=0.01)


@pytest.mark.parametrize(
    ("weights", "served", "in_force", "shares"),
    [
        (None, {"v1", "v2"}, {"v1": 1.0}, {"v1": 1.0}),
        ({"v1": 0.25, "v2": 0.75}, {"v1", "v2"}, {"v1": 0.25, "v2": 0.75}, {"v1": 0.25, "v2": 0.75}),
        ({"v1": 0.25, "v2": 0.25, "v3": 0.5}, {"v1", "v2"}, {"v1": 0.25, "v2": 0.25}, {"v1": 0.5, "v2": 0.5}),
        ({"v1": 0.0, "v2": 1.0}, {"v1", "v2"}, {"v2": 1.0}, {"v2": 1.0}),
        ({"v3": 1.0}, {"v1", "v2"}, {"v1": 1.0}, {"v1": 1.0}),
        ({"v3": 1.0}, {"v2"}, {}, {}),
    ],
)
def test_versions_that_are_not_served_leave_their_share_to_the_others_and_at_last_to_the_default(
    weights: dict[str, float] | None, served: set[str], in_force: dict[str, float], shares: dict[str, float]
) -> None:
    split = None if weights is None else Split(model="iris", weights=weights)
    found = weights_in_force(split, served=served, default_version="v1")
    assert found == in_force
    assert shares_of(found) == shares


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ({"fallback": "v9"}, "'v9' cannot be the fallback of model 'iris'"),
        ({"shadow": Shadow(version="v9", share=0.1)}, "'v9' cannot be the shadow"),
        ({"fallback": "v2"}, "'v2' of model 'iris' cannot be served: no file"),
    ],
)
def test_a_fallback_or_a_shadow_that_cannot_be_served_is_refused(roles: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSplitError, match=says):
        make_split("iris", {"v1": 1.0}, known=KNOWN, unusable={"v2": "no file"}, changed_s=1.0, **roles)
