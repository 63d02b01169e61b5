"""Records of rollouts: what is compared can be added up in any order, and old records are still read."""

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.lane_tallies import (
    BUCKETS,
    BucketCounts,
    LaneTally,
    decode_buckets,
    encode_buckets,
    key_bucket,
    merge_tallies,
    row_time_s,
    rows_of_bin,
    run_bin,
)
from inferlane.contracts.naming import Lane
from inferlane.contracts.outcomes import decode_summary
from inferlane.contracts.rollout import (
    Action,
    Command,
    RolloutSpec,
    RolloutState,
    Step,
    decode_rollout,
    encode_rollout,
    key_of,
)
from inferlane.contracts.traffic_split import decode_split, weights_in_force
from inferlane.errors import DecodeError

_SPEC = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(shadow=0.1), Step(weight=0.01)))


@st.composite
def _counts(draw: st.DrawFn) -> BucketCounts:
    requests = np.zeros(BUCKETS, np.int64)
    failed, expired = requests.copy(), requests.copy()
    for bucket in draw(st.sets(st.integers(0, BUCKETS - 1), max_size=20)):
        requests[bucket] = draw(st.integers(1, 10**6))
        failed[bucket] = draw(st.integers(0, int(requests[bucket])))
        expired[bucket] = int(requests[bucket]) - failed[bucket]
    return BucketCounts(requests, failed, expired)


def _tallies() -> st.SearchStrategy[LaneTally]:
    return st.builds(
        LaneTally,
        rollout=st.sampled_from(["a", "b"]),
        lane=st.sampled_from(list(Lane)),
        is_shadow=st.booleans(),
        requests=st.integers(0, 100),
        failed=st.integers(0, 100),
        runs=st.dictionaries(st.integers(0, 20), st.integers(1, 9), max_size=4),
        answers=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), max_size=3),
        keyed_answers=st.dictionaries(
            st.sampled_from("xyz"), st.dictionaries(st.integers(0, 63), st.integers(1, 9), min_size=1, max_size=3)
        ),
        buckets=_counts().map(encode_buckets),
    )


@given(_counts())
def test_bucket_counts_are_read_as_they_were_written(counts: BucketCounts) -> None:
    read = decode_buckets(encode_buckets(counts))
    assert np.array_equal(read.requests, counts.requests)
    assert np.array_equal(read.failed, counts.failed)
    assert np.array_equal(read.expired, counts.expired)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_of_bucket_counts_raise_only_decode_errors(raw: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_buckets(raw)


@given(st.lists(_tallies(), max_size=6), st.randoms(use_true_random=False))
def test_tallies_are_the_same_in_whatever_order_they_are_added(tallies: list[LaneTally], random: object) -> None:
    shuffled = list(tallies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    half = len(shuffled) // 2
    assert merge_tallies(tallies) == merge_tallies((*merge_tallies(shuffled[:half]), *merge_tallies(shuffled[half:])))


def test_a_key_has_one_bucket_and_keys_are_spread_evenly() -> None:
    buckets = [key_bucket(f"user-{number}") for number in range(20_000)]
    assert buckets == [key_bucket(f"user-{number}") for number in range(20_000)]
    # 20,000 keys leave no bucket of 1,024 empty (expected: 3e-6 buckets).
    assert set(buckets) == set(range(BUCKETS))


@pytest.mark.parametrize(("rows", "inference_s"), [(1, 1e-3), (64, 0.02), (100, 1e-9), (1, 1e9)])
def test_a_run_is_binned_by_its_rows_and_its_time_a_row(rows: int, inference_s: float) -> None:
    found = run_bin(rows, inference_s)
    assert rows_of_bin(found) <= rows < 2 * rows_of_bin(found)
    if 1e-6 <= inference_s / rows <= 3600:
        assert row_time_s(found) <= inference_s / rows * (1 + 1e-9) < row_time_s(found) * 2**0.25 * (1 + 1e-6)


def test_a_summary_of_schema_1_is_read_as_one_without_lanes() -> None:
    old = b'{"schema":1,"model":"iris","version":"v1","worker_id":"w","sequence":1,"from_s":0,"to_s":1}'
    assert decode_summary(old).lanes == ()


def test_a_split_from_before_rollouts_has_none() -> None:
    split = decode_split(b'{"model":"iris","weights":{"v1":1.0},"changed_s":3.0}')
    assert (split.rollout, split.generation, split.shadow, split.fallback) == ("", 0, None, "")


def test_a_lane_may_have_weights_of_its_own() -> None:
    split = decode_split(b'{"model":"iris","weights":{"v1":1.0},"lane_weights":{"bulk":{"v2":1.0}}}')
    served = {"v1", "v2"}
    assert weights_in_force(split, served=served, default_version="v1", lane=Lane.BULK) == {"v2": 1.0}
    assert weights_in_force(split, served=served, default_version="v1", lane=Lane.REQUESTS) == {"v1": 1.0}


@pytest.mark.parametrize(
    "record",
    [
        RolloutState(id="iris-1", spec=_SPEC),
        Command(id="c1", rollout="iris-1", action=Action.START, spec=_SPEC),
    ],
)
def test_a_record_of_the_rollout_topic_is_read_as_it_was_written(record: RolloutState | Command) -> None:
    assert decode_rollout(key_of(record), encode_rollout(record)) == record


@given(st.binary(max_size=100), st.sampled_from([b"iris-1", b"command/1"]))
def test_arbitrary_bytes_raise_only_decode_errors(raw: bytes, key: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_rollout(key, raw)


@pytest.mark.parametrize("step", [{}, {"weight": 0.1, "shadow": 0.1}, {"weight": 1.5}])
def test_a_step_has_a_weight_or_a_shadow_share(step: dict[str, float]) -> None:
    with pytest.raises((DecodeError, msgspec.ValidationError)):
        msgspec.convert(step, Step)
