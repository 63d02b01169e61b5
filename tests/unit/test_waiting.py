"""Clients that wait: each has a place of its own, whatever it waits for."""

import pytest

from inferlane.errors import OverloadedError
from inferlane.results import Result, Status
from producer_api.waiting import WaitingRoom


def make_room(max_places: int) -> WaitingRoom:
    return WaitingRoom(None, None, instance="api", max_places=max_places)  # type: ignore[arg-type]  # neither is asked


async def test_the_limit_counts_those_who_wait_and_not_what_they_wait_for() -> None:
    """Guards the count: 300 waited at a limit of 5, all for one id (seen to fail so)."""
    room = make_room(5)
    places = [room.enter("one") for _ in range(5)]
    with pytest.raises(OverloadedError, match="the limit is 5"):
        room.enter("one")
    with pytest.raises(OverloadedError, match="the limit is 5"):
        room.enter("another")
    room.leave("one", places.pop())
    room.leave("another", room.enter("another"))
    for place in places:
        room.leave("one", place)
    assert [room.enter("one") for _ in range(5)]


async def test_a_foreign_result_with_the_same_id_settles_nobody() -> None:
    room = make_room(5)
    place = room.enter("id")
    fields = {"request_id": "id", "status": Status.SUCCEEDED, "model": "iris", "version": "v1"}
    room._settle([Result(**fields, foreign_key="~x~y")])  # type: ignore[arg-type]  # fields of the struct
    assert not place.done()
    room._settle([Result(**fields)])  # type: ignore[arg-type]  # as above
    assert place.done()
