"""Which versions share a process of the local stack, and what that process is told."""

from pathlib import Path

import pytest

from control_plane.local.probe import Target
from control_plane.local.shared_pool import SharedPool
from inferlane.contracts.wire.tensors import Signature
from tests.support.fakes.records import make_version


def target(version: str = "v1", *, size_bytes: float = 100) -> Target:
    return Target(model="iris", version=version, signature=Signature(inputs=(), outputs=()), shareable_bytes=size_bytes)


@pytest.mark.parametrize(
    ("size_bytes", "limit_bytes", "workers", "wanted"),
    [(100, 100, 1, True), (101, 100, 1, False), (100, 0, 1, False), (100, 100, 2, False)],
)
def test_what_is_small_enough_shares_if_one_worker_is_enough(
    size_bytes: int, limit_bytes: int, workers: int, wanted: bool, tmp_path: Path
) -> None:
    pool = SharedPool(tmp_path, max_model_bytes=limit_bytes, workers=workers)
    assert pool.wants(target(size_bytes=size_bytes)) is wanted


def test_a_version_has_the_size_of_its_files() -> None:
    version = make_version()
    assert Target.of(version).shareable_bytes == version.size_bytes


def test_one_that_left_for_good_is_not_wanted_again_and_one_that_was_removed_is(tmp_path: Path) -> None:
    pool = SharedPool(tmp_path / "state", max_model_bytes=1_000, workers=1)
    for version in ("v1", "v2", "v3"):
        pool.add(target(version))
    pool.remove(target("v1"), for_good=True)
    pool.remove(target("v2"))
    pool.tell()
    assert pool.roster.read_text() == "iris/v3\n"
    assert [pool.wants(target(version)) for version in ("v1", "v2")] == [False, True]
    assert [pool.holds(target(version)) for version in ("v1", "v3")] == [False, True]
    # Nobody said anything yet: what left is gone, what stays is not known to be served.
    assert [pool.is_settled(target(version)) for version in ("v1", "v3")] == [True, False]
