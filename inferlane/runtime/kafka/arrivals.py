"""Signals between processes of one machine that a topic has new records, for a broker that does not wake a fetch.

Such a broker (Tansu) must be polled, which is a floor of the latency and most of the CPU of a small request. With
signals a consumer waits until a producer on the same machine has written. A signal is only a hint: if it is lost, or if
a producer sends none, the record waits for the consumer's next regular fetch.
"""

import asyncio
import itertools
import os
import socket
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

log = structlog.get_logger(__name__)

# Seconds for which a list of listeners is used. Until then a new listener finds records by its own fetches.
_LISTED_S = 1.0
_SIGNAL = b"1"
# The path of a socket has at most 107 bytes on Linux and 103 on macOS.
_MAX_PATH_BYTES = 103
_TOPIC_BYTES = 8
_NAME_BYTES = 2 * _TOPIC_BYTES + len(".4194304.1000000")
_numbers = itertools.count()


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

    def __init__(self, folder: Path, topic: str, *, arrived: asyncio.Event | None = None) -> None:
        """`arrived` is set by a signal; listeners that share it are waited for together."""
        self._path = folder.absolute() / f"{_topic_part(topic)}.{os.getpid()}.{next(_numbers)}"
        self._socket: socket.socket | None = None
        self._arrived = asyncio.Event() if arrived is None else arrived

    def open(self) -> None:
        """Start listening.

        Raises:
            OSError: the socket cannot be created; signals are only a hint, so go on without.
        """
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
        """Stop listening."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Forget earlier signals, because the broker is asked now: its answer has the records up to then."""
        self._arrived.clear()

    def wake(self) -> None:
        """End a wait, as a signal does."""
        self._arrived.set()

    async def wait(self, wait_s: float) -> None:
        """Return once there was a signal since `forget`, or after this many seconds."""
        await wait_for_arrival(self._arrived, wait_s)

    def _read(self) -> None:
        self._arrived.set()
        if self._socket is None:
            return
        with suppress(BlockingIOError, InterruptedError):
            # Mostly there is one; if more came, the event loop calls again.
            self._socket.recv(len(_SIGNAL))


class ArrivalListeners:
    """Receives the signals of many topics, which are waited for together. Used from one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrived = asyncio.Event()
        self._listeners: dict[str, ArrivalListener] = {}

    def listen_to(self, topics: "Collection[str]") -> None:
        """Listen to exactly these topics; a topic whose socket cannot be created is polled often."""
        for topic in self._listeners.keys() - set(topics):
            self._listeners.pop(topic).close()
        for topic in set(topics) - self._listeners.keys():
            listener = ArrivalListener(self._folder, topic, arrived=self._arrived)
            try:
                listener.open()
            except OSError as error:
                log.warning("arrivals_not_heard", topic=topic, reason=str(error))
            else:
                self._listeners[topic] = listener

    def close(self) -> None:
        """Stop listening."""
        self.listen_to(())

    def forget(self) -> None:
        """As `ArrivalListener.forget`."""
        self._arrived.clear()

    async def wait(self, wait_s: float) -> None:
        """Return once one of the topics has a signal, or after so many seconds."""
        await wait_for_arrival(self._arrived, wait_s)


class ArrivalSignals:
    """Sends signals to the listeners of a topic on this machine. Used from one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._socket: socket.socket | None = None
        self._listeners: dict[str, list[str]] = {}
        self._listed_s = -_LISTED_S
        self._due: set[str] = set()

    def send_soon(self, topic: str) -> None:
        """Send in the next turn of the event loop, once for all calls until then.

        The partitions of one produce request are acknowledged together. A signal for each would make the consumer
        fetch twice, the second time for nothing.
        """
        if not self._due:
            asyncio.get_running_loop().call_soon(self._send_due)
        self._due.add(topic)

    def _send_due(self) -> None:
        due, self._due = self._due, set()
        for topic in due:
            self.send(topic)

    def send(self, topic: str) -> None:
        """Tell every listener that the topic has new records. Never waits and never fails."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        gone = []
        listeners = self._listeners_of(topic)
        for path in listeners:
            try:
                self._socket.sendto(_SIGNAL, path)
            except BlockingIOError:
                # Its buffer is full of signals: one more would add nothing.
                continue
            except (ConnectionRefusedError, FileNotFoundError):
                gone.append(path)
            except OSError:
                continue
        for path in gone:
            # The socket of a process that was killed.
            listeners.remove(path)
            with suppress(OSError):
                Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Send what is due and close the socket."""
        self._send_due()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listeners_of(self, topic: str) -> list[str]:
        now_s = time.monotonic()
        if now_s - self._listed_s >= _LISTED_S:
            self._listeners = _by_topic(self._folder)
            self._listed_s = now_s
        return self._listeners.get(_topic_part(topic), [])


def _topic_part(topic: str) -> str:
    """Return the prefix of a listener's socket: a digest, as topics may be longer than a socket's path."""
    return blake2b(topic.encode(), digest_size=_TOPIC_BYTES).hexdigest()


def _by_topic(folder: Path) -> dict[str, list[str]]:
    listeners: dict[str, list[str]] = {}
    with suppress(OSError):
        names: Iterable[str] = os.listdir(folder)  # noqa: PTH208 - names alone, which is a fifth of the time
        for name in names:
            listeners.setdefault(name.partition(".")[0], []).append(f"{folder}/{name}")
    return listeners
