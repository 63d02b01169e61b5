"""The window of a bulk job: how many records are on their way at once."""

import asyncio

import pytest

from control_plane.bulk.job import SendWindow


def filled(window: SendWindow, *, size_bytes: int, most: int) -> int:
    for sequence in range(most):
        if not window.has_room:
            return sequence
        window.enter(sequence, size_bytes)
    return most


@pytest.mark.parametrize(("size_bytes", "records"), [(0, 512), (4_096, 512), (64 * 1024, 64), (8 * 1024 * 1024, 64)])
def test_small_records_are_many_on_their_way_and_large_ones_few(size_bytes: int, records: int) -> None:
    assert filled(SendWindow(), size_bytes=size_bytes, most=1_000) == records


async def test_a_record_that_leaves_makes_room_for_the_next() -> None:
    window = SendWindow()
    filled(window, size_bytes=512 * 1024, most=1_000)
    waiting = asyncio.create_task(window.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    window.leave(17)
    await asyncio.wait_for(waiting, timeout=5)
    assert window.has_room
