"""The places of receivers: how many calls one has, and that one that fails holds nobody up."""

import asyncio
from contextlib import AsyncExitStack

from tests.support.fakes.clock import FakeClock
from webhook_sender.receivers import MAX_CALLS, Receivers, Room


def make_receivers(clock: FakeClock | None = None) -> Receivers:
    return Receivers(calls_per_host=2, clock=clock or FakeClock())


async def test_a_receiver_has_no_more_calls_than_it_may_have_and_others_have_theirs() -> None:
    receivers = make_receivers()
    async with AsyncExitStack() as held:
        rooms = [await held.enter_async_context(receivers.room(host)) for host in ("a", "a", "a", "b")]
    assert rooms == [Room.FREE, Room.FREE, Room.BUSY, Room.FREE]


async def test_receivers_that_never_answered_leave_calls_to_those_that_did_however_many_they_are() -> None:
    """Guards `_Calls`: callbacks of one client whose receivers never answer held up everybody's."""
    receivers = make_receivers()
    async with receivers.room("works"):
        receivers.note("works", succeeded=True)
    for number in range(MAX_CALLS):
        async with receivers.room(f"fails {number}"):
            receivers.note(f"fails {number}", succeeded=False)
    async with AsyncExitStack() as held:
        probes = [await held.enter_async_context(receivers.room(f"fails {number}")) for number in range(MAX_CALLS)]
        new = [await held.enter_async_context(receivers.room(f"new {number}")) for number in range(MAX_CALLS)]
        assert 0 < probes.count(Room.FREE) < new.count(Room.FREE) + probes.count(Room.FREE) < MAX_CALLS
        assert set(probes) == set(new) == {Room.FREE, Room.BUSY}
        assert await held.enter_async_context(receivers.room("works")) is Room.FREE
    async with receivers.room("new 1") as later:
        assert later is Room.FREE


async def test_a_call_that_ends_makes_room_for_one_that_waits() -> None:
    receivers = make_receivers()
    async with AsyncExitStack() as held, receivers.room("a"):
        async with receivers.room("a"):
            waiting = asyncio.create_task(held.enter_async_context(receivers.room("a")))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting is Room.FREE


async def test_a_receiver_that_fails_is_tried_by_one_call_at_a_time_until_one_succeeds() -> None:
    receivers = make_receivers()
    async with receivers.room("a"):
        receivers.note("a", succeeded=False)
    async with receivers.room("a") as probe, receivers.room("a") as beside:
        assert (probe, beside) == (Room.FREE, Room.FAILING)
        receivers.note("a", succeeded=True)
    async with receivers.room("a") as first, receivers.room("a") as second:
        assert (first, second) == (Room.FREE, Room.FREE)


async def test_a_receiver_that_named_a_time_is_not_tried_before() -> None:
    clock = FakeClock()
    receivers = make_receivers(clock)
    async with receivers.room("a"):
        receivers.note("a", succeeded=False, rest_s=60.0)
    async with receivers.room("a") as early, receivers.room("b") as other:
        assert (early, other) == (Room.FAILING, Room.FREE)
    clock.advance(61)
    async with receivers.room("a") as probe:
        assert probe is Room.FREE


async def test_a_call_that_fails_beside_ends_no_rest_that_was_asked_for() -> None:
    clock = FakeClock()
    receivers = make_receivers(clock)
    async with receivers.room("a"), receivers.room("a"):
        receivers.note("a", succeeded=False, rest_s=60.0)
        receivers.note("a", succeeded=False)
    async with receivers.room("a") as early:
        assert early is Room.FAILING


async def test_a_call_that_waited_is_not_made_when_the_one_before_it_failed() -> None:
    receivers = make_receivers()
    async with AsyncExitStack() as held:
        async with receivers.room("a"), receivers.room("a"):
            waiting = asyncio.create_task(held.enter_async_context(receivers.room("a")))
            await asyncio.sleep(0)
            receivers.note("a", succeeded=False)
        assert await waiting is Room.FAILING


async def test_a_url_that_is_gone_is_not_called_for_an_hour() -> None:
    clock = FakeClock()
    receivers = make_receivers(clock)
    receivers.note_gone("https://example.com/hook")
    assert receivers.is_gone("https://example.com/hook")
    assert not receivers.is_gone("https://example.com/other")
    clock.advance(3_601)
    assert not receivers.is_gone("https://example.com/hook")


async def test_any_number_of_receivers_is_remembered_in_bounded_memory() -> None:
    receivers = make_receivers()
    for number in range(10_200):
        async with receivers.room(str(number)):
            receivers.note(str(number), succeeded=False)
        receivers.note_gone(str(number))
    async with receivers.room("0") as forgotten, receivers.room("10199") as first:
        assert (forgotten, first) == (Room.FREE, Room.FREE)
        async with receivers.room("0") as forgotten_again, receivers.room("10199") as known:
            assert (forgotten_again, known) == (Room.FREE, Room.FAILING)
    assert (receivers.is_gone("0"), receivers.is_gone("10199")) == (False, True)
