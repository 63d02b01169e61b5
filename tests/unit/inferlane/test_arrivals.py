"""Signals between processes of one machine that a topic has new records."""

import asyncio
import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from control_plane.local.profile import StackOptions, stack_profile
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka import arrival_signals, arrivals
from inferlane.runtime.kafka.arrival_signals import ArrivalSignals, remove_dead_listeners
from inferlane.runtime.kafka.arrivals import (
    LONGEST_BYTES,
    ArrivalListener,
    ArrivalListeners,
    WrittenBatch,
    can_hold_signals,
)
from inferlane.runtime.kafka.fetch_loop import wait_after

# Far longer than any signal takes, and longer than a test may last.
LONG_S = 300.0
# A signal that should not come would be there by then.
SHORT_S = 0.05


@pytest.fixture
def folder() -> Iterator[Path]:
    # The paths of pytest's own folders are too long for a socket on some systems.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "arrivals"


@pytest.fixture
def signals(folder: Path) -> Iterator[ArrivalSignals]:
    signals = ArrivalSignals(folder)
    yield signals
    signals.close()


def kill(listener: ArrivalListener) -> None:
    """As the kernel does it: the socket is closed, its file stays."""
    assert listener._socket is not None
    asyncio.get_running_loop().remove_reader(listener._socket.fileno())
    listener._socket.close()


def block(folder: Path) -> None:
    """No socket can be made there, as on a full disk."""
    folder.write_text("in the way")


def unblock(folder: Path) -> None:
    folder.unlink()


def names_in(folder: Path) -> list[str]:
    """What lies in the folder."""
    return [path.name for path in folder.iterdir()]


def listening(folder: Path, topic: str) -> ArrivalListener:
    listener = ArrivalListener(folder, topic)
    listener.listen()
    return listener


async def is_told(listener: ArrivalListener | ArrivalListeners) -> bool:
    """Whether a wait ends well before its time."""
    try:
        async with asyncio.timeout(SHORT_S):
            await listener.wait(LONG_S)
    except TimeoutError:
        return False
    return True


async def test_every_listener_of_the_topic_is_told_and_no_other(folder: Path, signals: ArrivalSignals) -> None:
    ours = [listening(folder, "requests") for _ in range(2)]
    other = listening(folder, "bulk")
    signals.send("requests")
    async with asyncio.timeout(LONG_S):
        await asyncio.gather(*(listener.wait(LONG_S) for listener in ours))
    assert not await is_told(other)
    for listener in (*ours, other):
        listener.close()


async def test_acknowledgements_of_one_turn_are_one_signal(folder: Path, signals: ArrivalSignals) -> None:
    """A signal for each partition would let the consumer fetch again when it has everything already."""
    listener = listening(folder, "requests")
    for _ in range(3):
        signals.send_soon("requests")
    assert await is_told(listener)
    # All three would have been sent by now: `send_soon` sends in the next turn.
    listener.forget()
    assert not await is_told(listener)
    signals.send_soon("requests")
    assert await is_told(listener)
    listener.close()


async def test_a_signal_that_is_due_is_sent_before_the_socket_closes(folder: Path, signals: ArrivalSignals) -> None:
    listener = listening(folder, "requests")
    signals.send_soon("requests")
    signals.close()
    assert await is_told(listener)
    listener.close()


async def test_a_signal_that_came_while_nobody_waited_counts_until_the_broker_is_asked(
    folder: Path, signals: ArrivalSignals
) -> None:
    listener = listening(folder, "requests")
    signals.send("requests")
    async with asyncio.timeout(LONG_S):
        await listener.wait(LONG_S)
        await listener.wait(LONG_S)
    listener.forget()
    assert not await is_told(listener)
    listener.close()


async def test_a_wait_without_a_signal_ends_after_its_time(folder: Path) -> None:
    listener = listening(folder, "requests")
    async with asyncio.timeout(LONG_S):
        await listener.wait(0.01)
    listener.close()


async def test_more_signals_than_a_socket_holds_stop_nobody(folder: Path, signals: ArrivalSignals) -> None:
    listener = listening(folder, "requests")
    for _ in range(10_000):
        signals.send("requests")
    async with asyncio.timeout(LONG_S):
        await listener.wait(LONG_S)
    listener.close()


WRITTEN = WrittenBatch(3, 41, bytes(8) + b"what the broker has of it")
STORED = (41).to_bytes(8, "big") + b"what the broker has of it"


class Taking:
    """A listener that takes batches while `takes`, and what it was handed."""

    def __init__(self, folder: Path, topic: str) -> None:
        self.takes = True
        self.taken: list[tuple[str, int, bytes]] = []
        self._has_taken = asyncio.Event()
        self.listener = ArrivalListener(folder, topic)
        self.listener.listen(self.take)

    def take(self, topic: str, partition: int, batch: bytes) -> bool:
        self.taken.append((topic, partition, batch))
        self._has_taken.set()
        return self.takes

    async def until_taken(self, count: int) -> None:
        """Return when it was handed so many."""
        async with asyncio.timeout(LONG_S):
            while len(self.taken) < count:
                self._has_taken.clear()
                await self._has_taken.wait()


async def test_a_batch_is_handed_to_who_takes_batches_and_told_to_the_others(
    folder: Path, signals: ArrivalSignals
) -> None:
    taking, other = Taking(folder, "requests"), listening(folder, "requests")
    signals.send_soon("requests", WRITTEN)
    signals.send_soon("requests", WRITTEN._replace(partition=4))
    assert await is_told(other)
    assert not await is_told(taking.listener)
    assert taking.taken == [("requests", 3, STORED), ("requests", 4, STORED)]
    taking.takes = False
    signals.send_soon("requests", WRITTEN)
    assert await is_told(taking.listener)
    taking.listener.close()
    other.close()
    assert not names_in(folder)


@pytest.mark.parametrize(
    "also", [None, WRITTEN._replace(batch=bytes(LONGEST_BYTES + 1))], ids=["not known", "too large"]
)
async def test_a_batch_that_cannot_be_handed_is_told_instead_of_those_beside_it(
    folder: Path, signals: ArrivalSignals, also: WrittenBatch | None
) -> None:
    taking = Taking(folder, "requests")
    signals.send_soon("requests", WRITTEN)
    signals.send_soon("requests", also)
    assert await is_told(taking.listener)
    assert not taking.taken
    taking.listener.close()


async def test_the_longest_batch_is_handed_whole(folder: Path, signals: ArrivalSignals) -> None:
    taking = Taking(folder, "requests")
    longest = bytes(8) + bytes(range(256)) * (LONGEST_BYTES // 256 - 1)
    signals.send("requests", [WRITTEN._replace(batch=longest)])
    await taking.until_taken(1)
    assert taking.taken == [("requests", 3, STORED[:8] + longest[8:])]
    taking.listener.close()


async def test_a_listener_that_does_not_read_is_told_to_ask_once_it_does_and_holds_up_no_other(
    folder: Path, signals: ArrivalSignals
) -> None:
    still, other = Taking(folder, "requests"), Taking(folder, "requests")
    assert still.listener._socket is not None
    asyncio.get_running_loop().remove_reader(still.listener._socket.fileno())
    for _ in range(2_000):
        signals.send("requests", [WRITTEN])
        await asyncio.sleep(0)
    await other.until_taken(2_000)
    asyncio.get_running_loop().add_reader(still.listener._socket.fileno(), still.listener._read)
    async with asyncio.timeout(LONG_S):
        await still.listener.wait(LONG_S)
    assert 0 < len(still.taken) < 2_000
    still.listener.close()
    other.listener.close()


@pytest.mark.parametrize(("code", "is_handed_later"), [(errno.ENOBUFS, True), (errno.EMSGSIZE, False)])
async def test_a_batch_that_the_system_does_not_send_is_told_and_only_a_size_is_never_tried_again(
    folder: Path, signals: ArrivalSignals, monkeypatch: pytest.MonkeyPatch, code: int, is_handed_later: bool
) -> None:
    taking = Taking(folder, "requests")
    send, failing = socket.socket.sendmsg, [True]

    def fail_once(self: socket.socket, parts: Sequence[bytes]) -> int:
        if failing and failing.pop():
            raise OSError(code, "not sent")
        return send(self, parts)

    monkeypatch.setattr(arrival_signals.socket, "socket", type("Socket", (socket.socket,), {"sendmsg": fail_once}))
    signals.send("requests", [WRITTEN])
    assert await is_told(taking.listener)
    taking.listener.forget()
    signals.send("requests", [WRITTEN])
    assert await is_told(taking.listener) is not is_handed_later
    assert bool(taking.taken) is is_handed_later
    taking.listener.close()


async def test_a_new_listener_at_the_path_of_an_earlier_one_is_told(folder: Path, signals: ArrivalSignals) -> None:
    """A process that gets the number of one that was killed listens where that did."""
    earlier = listening(folder, "requests")
    signals.send("requests")
    assert await is_told(earlier)
    earlier.close()
    later = listening(folder, "requests")
    assert later._socket is not None
    path = later._path.rename(earlier._path)
    signals.send("requests")
    assert await is_told(later)
    assert path.exists()
    later.close()
    path.unlink()


async def test_the_socket_of_a_process_that_was_killed_is_taken_away(folder: Path, signals: ArrivalSignals) -> None:
    kill(listening(folder, "requests"))
    alive = listening(folder, "requests")
    signals.send("requests")
    assert await is_told(alive)
    assert len(names_in(folder)) == 1
    alive.close()
    assert not names_in(folder)


async def test_a_path_that_was_found_dead_is_told_once_somebody_listens_there(
    folder: Path, signals: ArrivalSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `is_gone` in `_listeners_of`: who bound the path before the next listing was never told."""
    monkeypatch.setattr(arrival_signals, "_LISTED_S", 0.0)
    killed = listening(folder, "requests")
    path = killed._path
    kill(killed)
    signals.send("requests")
    assert not names_in(folder)
    later = listening(folder, "requests")
    later._path.rename(path)
    signals.send("requests")
    assert await is_told(later)
    later.close()
    path.unlink()


async def test_the_sockets_of_the_dead_are_removed_and_those_of_the_living_stay(folder: Path) -> None:
    alive = listening(folder, "requests")
    kill(listening(folder, "bulk"))
    (folder / "other").write_text("no socket")
    remove_dead_listeners(folder)
    assert sorted(names_in(folder)) == sorted([alive._path.name, "other"])
    alive.close()


@pytest.mark.parametrize("many", [False, True], ids=["one topic", "many topics"])
async def test_a_socket_that_was_removed_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(arrivals, "_LOOK_S", 0.0)
    if many:
        listener = ArrivalListeners(folder)
        listener.listen_to(["requests"])
    else:
        listener = listening(folder, "requests")
    (removed,) = names_in(folder)
    shutil.rmtree(folder)
    # As before each fetch.
    listener.forget()
    assert names_in(folder) == [removed]
    signals = ArrivalSignals(folder)
    signals.send("requests")
    assert await is_told(listener)
    signals.close()
    listener.close()


async def test_a_listener_that_was_closed_makes_no_socket_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_LOOK_S", 0.0)
    listener = listening(folder, "requests")
    listener.close()
    listener.forget()
    assert not names_in(folder)


async def test_a_socket_that_could_not_be_made_is_made_later_and_no_wait_is_long_until_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch, signals: ArrivalSignals
) -> None:
    monkeypatch.setattr(arrivals, "_LOOK_S", 0.0)
    block(folder)
    listener = listening(folder, "requests")
    listeners = ArrivalListeners(folder)
    listeners.listen_to(["requests"])
    for unheard in (listener, listeners):
        unheard.forget()
        async with asyncio.timeout(LONG_S / 2):
            await unheard.wait(LONG_S)
    unblock(folder)
    for heard in (listener, listeners):
        heard.forget()
        assert not await is_told(heard)
    signals.send("requests")
    assert await is_told(listener)
    assert await is_told(listeners)
    listener.close()
    listeners.close()


def test_nobody_to_tell_is_no_error(folder: Path) -> None:
    ArrivalSignals(folder).send("requests")
    assert not folder.exists()


def test_consumers_of_a_local_stack_rest_with_its_own_broker_alone() -> None:
    """Another broker wakes a fetch, so only batches of requests are handed on: producers may be anywhere."""
    embedded = stack_profile(load_settings(state_dir=Path("/srv")), StackOptions())
    assert embedded.environment["INFERLANE_ARRIVALS_DIR"] == "/srv/arrivals"
    assert embedded.settings.kafka.rests_dir == Path("/srv/arrivals")
    foreign = stack_profile(
        load_settings(state_dir=Path("/srv"), kafka_bootstrap_servers="broker:9092"), StackOptions()
    )
    assert foreign.settings.kafka.arrivals_dir == Path("/srv/arrivals")
    assert foreign.settings.kafka.rests_dir is None


def test_a_folder_whose_path_is_too_long_for_a_socket_holds_none() -> None:
    assert can_hold_signals(Path("/var/lib/inferlane/arrivals"))
    deep = Path("/" + 90 * "a")
    assert not can_hold_signals(deep)
    assert stack_profile(load_settings(state_dir=deep), StackOptions()).settings.kafka.arrivals_dir is None


def test_a_fetch_that_found_nothing_of_what_is_there_waits_longer_the_next_time() -> None:
    """With one short wait, a log that takes longer to look through is never read again (seen for minutes)."""
    waits = [1]
    while len(waits) < 12:
        waits.append(wait_after(found=False, is_behind=True, wait_ms=waits[-1]))
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert waits[-1] == waits[-2] == 1_000
    assert wait_after(found=True, is_behind=True, wait_ms=512) == 512
    assert wait_after(found=True, is_behind=False, wait_ms=512) == 512


def test_a_fetch_that_had_nothing_to_find_is_answered_sooner_the_next_time() -> None:
    assert wait_after(found=False, is_behind=False, wait_ms=512) == 256
    assert wait_after(found=False, is_behind=False, wait_ms=1) == 1
