"""How full a store is: one node or several, with a limit or without."""

from inferlane.runtime.redis.store_probe import StoreMemory

MIB = 2**20


def test_the_share_is_that_of_the_limit_and_none_without_one() -> None:
    assert StoreMemory.of({"used_memory": 90 * MIB, "maxmemory": 100 * MIB}).share == 0.9
    unlimited = StoreMemory.of({"used_memory": 90 * MIB, "maxmemory": 0})
    assert unlimited.share == 0.0
    assert str(unlimited) == "90 MiB"


def test_of_several_nodes_the_fullest_counts() -> None:
    nodes = {
        "a:1": {"used_memory": 10 * MIB, "maxmemory": 100 * MIB},
        "b:1": {"used_memory": 45 * MIB, "maxmemory": 50 * MIB},
    }
    assert str(StoreMemory.of(nodes)) == "45 MiB of 50 MiB (90%)"
