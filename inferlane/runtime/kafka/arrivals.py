"""Signals between processes of one machine that a topic has new records, and which.

A broker that does not wake a fetch (Tansu) must be polled, which is a floor of the latency and most of the CPU of a
small request. With signals a consumer waits until a producer on the same machine has written. A signal is only a hint:
if it is lost, or if a producer sends none, the record waits for the consumer's next regular fetch. A signal may carry
the batch that was written, for listeners that take it (`inferlane.runtime.kafka.handed_batches`): they need no fetch
then, whatever the broker.
"""

import asyncio
import itertools
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection

log = structlog.get_logger(__name__)

SIGNAL = b"1"
# In front of a batch: its partition, and its base offset in the place of that in the batch itself.
WRITTEN_AT = struct.Struct(">iq")
PARTITION = struct.Struct(">i")
# Larger batches are fetched. Most of those that clients wait for have at most 64 KiB (`record_writer`).
_MOST_BATCH_BYTES = 128 * 1024
LONGEST_BYTES = PARTITION.size + _MOST_BATCH_BYTES
# The path of a socket has at most 107 bytes on Linux and 103 on macOS.
_MAX_PATH_BYTES = 103
_TOPIC_BYTES = 8
# At the end of a socket's name: its listener takes batches.
TAKES_BATCHES = "+"
_NAME_BYTES = 2 * _TOPIC_BYTES + len(".4194304.1000000") + len(TAKES_BATCHES)
_numbers = itertools.count()
# Seconds after which a listener looks whether its socket is still there, and tries again where it could not be made.
_LOOK_S = 5.0
# The longest wait for signals that cannot come, in seconds.
_UNHEARD_S = 0.02
_OFTEN = "the broker is asked often"


class WrittenBatch(NamedTuple):
    """A batch of records that the broker has acknowledged: of format 2, and where it lies."""

    partition: int
    base_offset: int
    batch: bytes | bytearray | memoryview


Taker = Callable[[str, int, bytes], bool]
"""Takes a batch of a topic and a partition, as the broker stores it; False if the broker must be asked instead."""


def can_hold_signals(folder: Path) -> bool:
    """Return whether sockets fit in the folder: their paths have a limit, and not every system has such sockets."""
    return hasattr(socket, "AF_UNIX") and len(os.fsencode(folder.absolute())) + 1 + _NAME_BYTES <= _MAX_PATH_BYTES


async def wait_for_arrival(arrived: asyncio.Event, wait_s: float) -> None:
    """Return at the next signal, or after this many seconds."""
    if arrived.is_set():
        return
    timer = asyncio.get_running_loop().call_later(wait_s, arrived.set)
    try:
        await arrived.wait()
    finally:
        timer.cancel()


class ArrivalListener:
    """Receives the signals of one topic, in a socket of its own. Used from one event loop."""

    def __init__(
        self, folder: Path, topic: str, *, arrived: asyncio.Event | None = None, unheard_s: float = _UNHEARD_S
    ) -> None:
        """`arrived` is set by a signal; listeners that share it are waited for together.

        While no signal can come, no wait is longer than `unheard_s`.
        """
        self._topic = topic
        self._path = folder.absolute() / f"{topic_part(topic)}.{os.getpid()}.{next(_numbers)}"
        self._socket: socket.socket | None = None
        self._arrived = asyncio.Event() if arrived is None else arrived
        self._unheard_s = unheard_s
        self._take: Taker | None = None
        self._received = memoryview(bytearray(len(SIGNAL)))
        self._looked_s = 0.0

    @property
    def is_heard(self) -> bool:
        """Whether a signal can come, as far as this listener knows."""
        return self._socket is not None

    def listen(self, take: Taker | None = None, *, effect: str = _OFTEN) -> None:
        """Start listening; hand each batch that comes with a signal to `take`.

        Signals are only a hint: where the socket cannot be made, waits are short until it can be, and the log says so
        with the `effect`. A socket that somebody has removed is made again.
        """
        if take is not None:
            self._take, self._path = take, self._path.with_name(self._path.name + TAKES_BATCHES)
            self._received = memoryview(bytearray(LONGEST_BYTES))
        self._looked_s = time.monotonic()
        try:
            self._bind()
        except OSError as error:
            log.warning("arrivals_not_heard", topic=self._topic, reason=str(error), effect=effect)

    def look(self) -> None:
        """Make the socket where it is not there, at most every few seconds; call it before the broker is asked."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if self.is_heard and self._path.exists():
            return
        self._unbind()
        with suppress(OSError):
            self._bind()
            log.info("arrivals_heard_again", topic=self._topic)

    def _bind(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listening.setblocking(False)
            listening.bind(str(self._path))
            asyncio.get_running_loop().add_reader(listening.fileno(), self._read)
        except BaseException:
            listening.close()
            raise
        self._socket = listening

    def close(self) -> None:
        """Stop listening, for good: a fetch that is still under way makes no socket again."""
        self._looked_s = math.inf
        self._unbind()

    def _unbind(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Forget earlier signals, because the broker is asked now: its answer has the records up to then."""
        self._arrived.clear()
        self.look()

    def wake(self) -> None:
        """End a wait, as a signal does."""
        self._arrived.set()

    async def wait(self, wait_s: float) -> None:
        """Return once there was a signal since `forget`, or after this many seconds."""
        await wait_for_arrival(self._arrived, wait_s if self.is_heard else min(wait_s, self._unheard_s))

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            # Mostly there is one; if more came, the event loop calls again.
            size_bytes = self._socket.recv_into(self._received)
        except (BlockingIOError, InterruptedError):
            return
        if self._take is not None and size_bytes > WRITTEN_AT.size:
            (partition,) = PARTITION.unpack_from(self._received)
            if self._take(self._topic, partition, bytes(self._received[PARTITION.size : size_bytes])):
                return
        self._arrived.set()


class ArrivalListeners:
    """Receives the signals of many topics, which are waited for together. Used from one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrived = asyncio.Event()
        self._listeners: dict[str, ArrivalListener] = {}
        self.take: Taker | None = None
        """What the batches of topics that are listened to from now on are handed to."""

    def listen_to(self, topics: "Collection[str]") -> None:
        """Listen to exactly these topics."""
        for topic in self._listeners.keys() - set(topics):
            self._listeners.pop(topic).close()
        for topic in set(topics) - self._listeners.keys():
            listener = self._listeners[topic] = ArrivalListener(self._folder, topic, arrived=self._arrived)
            listener.listen(self.take)

    def close(self) -> None:
        """Stop listening."""
        self.listen_to(())

    def forget(self) -> None:
        """As `ArrivalListener.forget`."""
        self._arrived.clear()
        for listener in self._listeners.values():
            listener.look()

    def wake(self) -> None:
        """End a wait, as a signal does."""
        self._arrived.set()

    async def wait(self, wait_s: float) -> None:
        """Return once one of the topics has a signal, or after so many seconds."""
        are_heard = all(listener.is_heard for listener in self._listeners.values())
        await wait_for_arrival(self._arrived, wait_s if are_heard else min(wait_s, _UNHEARD_S))


def topic_part(topic: str) -> str:
    """Return the prefix of a listener's socket: a digest, as topics may be longer than a socket's path."""
    return blake2b(topic.encode(), digest_size=_TOPIC_BYTES).hexdigest()
