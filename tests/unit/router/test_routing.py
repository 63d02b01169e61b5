"""The choice of a version: pure, sticky, proportional to the weights, and stable when weights change."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import read_headers
from inferlane.contracts.traffic_split import Shadow, Split
from inferlane.errors import UnknownModelError
from router.routing import Route, choose, deciding_split, route, shadow_of
from tests.support.fakes.records import FakeRecord, make_catalog

WEIGHTS = st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0.01, 100), min_size=1, max_size=6)
KEYS = [f"user-{number}" for number in range(20_000)]


class Table(dict[str, Split]):
    pass


def routed(*headers: tuple[str, bytes], weights: dict[str, float] | None = None, versions: tuple[str, ...] = ()) -> str:
    splits = Table({} if weights is None else {"iris": Split(model="iris", weights=weights)})
    return route(read_headers(FakeRecord(headers=headers)), splits, make_catalog(*versions)).version


@given(st.text(max_size=40), WEIGHTS)
def test_the_choice_is_one_of_the_weighted_versions_and_always_the_same(key: str, weights: dict[str, float]) -> None:
    chosen = choose(key, weights)
    assert chosen in weights
    assert choose(key, dict(reversed(weights.items()))) == chosen


@pytest.mark.parametrize("weights", [{"v1": 0.9, "v2": 0.1}, {"v1": 0.5, "v2": 0.3, "v3": 0.2}])
def test_shares_follow_the_weights_within_a_point(weights: dict[str, float]) -> None:
    shares = Counter(choose(key, weights) for key in KEYS)
    for version, weight in weights.items():
        assert shares[version] / len(KEYS) == pytest.approx(weight, abs=0.01)


def test_raising_a_canary_moves_only_keys_to_the_canary() -> None:
    before = {key: choose(key, {"v1": 90, "v2": 10}) for key in KEYS}
    after = {key: choose(key, {"v1": 50, "v2": 50}) for key in KEYS}
    moved = {(before[key], after[key]) for key in KEYS if before[key] != after[key]}
    assert moved == {("v1", "v2")}


def test_a_third_version_takes_its_keys_from_all_others_and_moves_no_other() -> None:
    before = {key: choose(key, {"v1": 1, "v2": 1}) for key in KEYS}
    after = {key: choose(key, {"v1": 1, "v2": 1, "v3": 1}) for key in KEYS}
    assert {after[key] for key in KEYS if before[key] != after[key]} == {"v3"}


def test_a_version_without_weight_gets_nothing() -> None:
    assert {choose(key, {"v1": 0, "v2": 1}) for key in KEYS[:100]} == {"v2"}


def test_a_pin_wins_over_the_split() -> None:
    assert routed(("ce_modelversion", b"v2"), weights={"v1": 1.0, "v2": 0.0}) == "v2"


def test_without_a_split_the_default_version_serves() -> None:
    assert routed() == "v1"


def test_the_routing_key_decides_before_the_request_id() -> None:
    weights = {"v1": 0.5, "v2": 0.5}
    chosen = {routed(("ce_id", str(n).encode()), ("ce_routingkey", b"ann"), weights=weights) for n in range(50)}
    assert chosen == {choose("ann", weights)}


def test_a_split_that_names_only_removed_versions_falls_back_to_the_default() -> None:
    assert routed(weights={"v9": 1.0}) == "v1"


@pytest.mark.parametrize("header", [("ce_modelversion", b"v9"), ("ce_model", b"nope")])
def test_what_the_catalog_does_not_hold_is_an_error_and_never_a_guess(header: tuple[str, bytes]) -> None:
    with pytest.raises(UnknownModelError):
        routed(header)


def test_a_lane_may_have_weights_of_its_own() -> None:
    split = Split(model="iris", weights={"v1": 1.0}, lane_weights={Lane.BULK: {"v2": 1.0}})
    headers, catalog = read_headers(FakeRecord()), make_catalog("v1", "v2")
    assert route(headers, Table(iris=split), catalog, Lane.BULK).version == "v2"
    assert route(headers, Table(iris=split), catalog, Lane.REQUESTS).version == "v1"


def test_only_a_request_whose_version_was_left_to_the_split_of_a_rollout_counts_in_it() -> None:
    splits = Table(iris=Split(model="iris", weights={"v1": 1.0}, rollout="iris-1"))
    chosen = Route("iris", "v1")
    deciding = deciding_split(read_headers(FakeRecord()), chosen, splits)
    assert deciding is not None
    assert deciding.rollout == "iris-1"
    pinned = FakeRecord(headers=(("ce_modelversion", b"v1"),))
    assert deciding_split(read_headers(pinned), chosen, splits) is None
    assert deciding_split(read_headers(FakeRecord()), chosen, Table()) is None


def test_a_shadow_gets_its_share_of_the_unpinned_requests_of_others_and_the_same_ones_again() -> None:
    split = Split(model="iris", weights={"v1": 1.0}, shadow=Shadow(version="v2", share=0.1))
    headers = [read_headers(FakeRecord(headers=(("ce_id", key.encode()),))) for key in KEYS]
    copied = [shadow_of(one, Route("iris", "v1"), split) for one in headers]
    assert copied.count("v2") / len(KEYS) == pytest.approx(0.1, abs=0.01)
    assert copied == [shadow_of(one, Route("iris", "v1"), split) for one in headers]
    assert {shadow_of(one, Route("iris", "v2"), split) for one in headers[:100]} == {""}
    pinned = read_headers(FakeRecord(headers=(("ce_modelversion", b"v1"),)))
    every = Table({"iris": Split(model="iris", weights={"v1": 1.0}, shadow=Shadow(version="v2", share=1.0))})
    assert deciding_split(pinned, Route("iris", "v1"), every) is None
    assert deciding_split(headers[0], Route("iris", "v1"), Table()) is None
