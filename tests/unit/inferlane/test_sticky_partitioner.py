"""Records without an order keep company, and still reach every partition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka.record_writer import StickyPartitioner


def place_all(partitioner: StickyPartitioner, count: int, *, size_bytes: int, max_run: int = 1_000) -> list[int]:
    return [partitioner.place(size_bytes, max_run=max_run) for _ in range(count)]


def test_small_records_keep_company() -> None:
    assert len(set(place_all(StickyPartitioner(12, first=0), 64, size_bytes=600))) == 1


def test_no_more_keep_company_than_may() -> None:
    """Guards `together`: without it, all that wait at one moment go to one worker."""
    placed = place_all(StickyPartitioner(12, first=0), 64, size_bytes=600, max_run=16)
    assert [placed.count(partition) for partition in dict.fromkeys(placed)] == [16, 16, 16, 16]


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 12, 24])
@pytest.mark.parametrize("size_bytes", [64 * 1024, 200_000, 512 * 1024 + 300, 8 * 1024 * 1024])
def test_large_records_take_every_partition_in_turn(partitions: int, size_bytes: int) -> None:
    placed = place_all(StickyPartitioner(partitions, first=5), partitions, size_bytes=size_bytes)
    assert sorted(placed) == list(range(partitions))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_what_follows_goes_to_another_range_of_partitions(workers: int) -> None:
    each = 12 // workers
    reached = [
        partition // each
        for partition in place_all(StickyPartitioner(12, first=0), 2 * workers, size_bytes=1, max_run=1)
    ]
    assert reached[0] != reached[1]
    assert len(set(reached)) == workers


@given(st.integers(1, 200), st.integers(0, 1 << 16), st.lists(st.integers(0, 200_000), max_size=50))
def test_there_is_always_such_a_partition(partitions: int, first: int, sizes: list[int]) -> None:
    partitioner = StickyPartitioner(partitions, first=first)
    for size_bytes in sizes:
        assert 0 <= partitioner.place(size_bytes, max_run=3) < partitions
