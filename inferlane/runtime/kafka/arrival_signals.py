"""The sending side of `inferlane.runtime.kafka.arrivals`."""

import asyncio
import errno
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inferlane.runtime.kafka.arrivals import (
    LONGEST_BYTES,
    PARTITION,
    SIGNAL,
    TAKES_BATCHES,
    WRITTEN_AT,
    WrittenBatch,
    topic_part,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Seconds for which a list of listeners is used. Until then a new listener finds records by its own fetches.
_LISTED_S = 1.0
# As many batches as a listener's queue has places on Linux; the system may allow less.
_SENDING_BYTES = 10 * LONGEST_BYTES
_SIGNAL_ALONE = (SIGNAL,)


class ArrivalSignals:
    """Sends signals to the listeners of a topic on this machine. Used from one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._peers: dict[str, _Peer] = {}
        self._by_topic: dict[str, list[str]] = {}
        self._listed_s = -_LISTED_S
        self._due: dict[str, list[WrittenBatch | None]] = {}

    def send_soon(self, topic: str, written: WrittenBatch | None = None) -> None:
        """Send in the next turn of the event loop, once for all calls until then.

        The partitions of one produce request are acknowledged together. A signal for each would make the consumer
        fetch twice, the second time for nothing.
        """
        if not self._due:
            asyncio.get_running_loop().call_soon(self._send_due)
        self._due.setdefault(topic, []).append(written)

    def _send_due(self) -> None:
        due, self._due = self._due, {}
        for topic, written in due.items():
            self.send(topic, written)

    def send(self, topic: str, written: "Sequence[WrittenBatch | None]" = (None,)) -> None:
        """Tell every listener that the topic has these batches, or others. Never waits and never fails."""
        batches = [_datagram(batch) for batch in written if batch is not None]
        is_all = len(batches) == len(written) and all(sum(map(len, batch)) <= LONGEST_BYTES for batch in batches)
        for path in self._listeners_of(topic):
            peer = self._peers.get(path)
            if peer is None:
                peer = self._peers[path] = _Peer(path)
            for datagram in batches if is_all and peer.takes_batches else (_SIGNAL_ALONE,):
                peer.send(datagram)

    def close(self) -> None:
        """Send what is due and close the sockets."""
        self._send_due()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def _listeners_of(self, topic: str) -> list[str]:
        now_s = time.monotonic()
        if now_s - self._listed_s >= _LISTED_S:
            self._by_topic = _by_topic(self._folder)
            self._listed_s = now_s
            there = {path for paths in self._by_topic.values() for path in paths}
            for path, peer in list(self._peers.items()):
                if peer.is_gone or path not in there:
                    # What listens there by now is told through a socket of its own.
                    self._peers.pop(path).close()
        return self._by_topic.get(topic_part(topic), [])


class _Peer:
    """One listener, told through a socket of its own: one that does not read holds up no other."""

    def __init__(self, path: str) -> None:
        self.takes_batches = path.endswith(TAKES_BATCHES)
        self._path = path
        self._socket: socket.socket | None = None
        self.is_gone = self._is_behind = False

    def send(self, datagram: "Sequence[bytes | memoryview]") -> None:
        if self.is_gone or self._is_behind:
            return
        was_connected = self._socket is not None
        try:
            self._connected().sendmsg(datagram)
        except BlockingIOError:
            # Its buffer is full. It lacks a batch, so once there is room it is told to ask the broker.
            self._is_behind = True
            asyncio.get_running_loop().add_writer(self._connected(), self._tell)
        except (ConnectionRefusedError, FileNotFoundError):
            self.close()
            if was_connected:
                # The path may be that of another listener by now.
                self.send(datagram)
                return
            # The socket of a process that was killed.
            self.is_gone = True
            with suppress(OSError):
                Path(self._path).unlink(missing_ok=True)
        except OSError as error:
            if datagram is not _SIGNAL_ALONE:
                # A size that this system does not send will not be sent later either.
                self.takes_batches = error.errno != errno.EMSGSIZE
                self.send(_SIGNAL_ALONE)

    def close(self) -> None:
        if self._socket is not None:
            if self._is_behind:
                asyncio.get_running_loop().remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sending.setblocking(False)
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDING_BYTES)
            try:
                sending.connect(self._path)
            except BaseException:
                sending.close()
                raise
            self._socket = sending
        return self._socket

    def _tell(self) -> None:
        """There is room again, or the listener is gone."""
        asyncio.get_running_loop().remove_writer(self._connected())
        self._is_behind = False
        self.send(_SIGNAL_ALONE)


def _datagram(written: WrittenBatch) -> "Sequence[bytes | memoryview]":
    where = WRITTEN_AT.pack(written.partition, written.base_offset)
    return where, memoryview(written.batch)[WRITTEN_AT.size - PARTITION.size :]


def _by_topic(folder: Path) -> dict[str, list[str]]:
    listeners: dict[str, list[str]] = {}
    with suppress(OSError):
        names: Iterable[str] = os.listdir(folder)  # noqa: PTH208 - names alone, which is a fifth of the time
        for name in names:
            listeners.setdefault(name.partition(".")[0], []).append(f"{folder}/{name}")
    return listeners


def remove_dead_listeners(folder: Path) -> None:
    """Remove the sockets of processes that were killed; those of topics that nobody writes to would stay for ever."""
    for path in filter(Path.is_socket, folder.absolute().glob("*")):
        # A signal too many costs the living one fetch.
        peer = _Peer(str(path))
        peer.send(_SIGNAL_ALONE)
        peer.close()
