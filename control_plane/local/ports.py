"""Which port each process of the stack listens on, and who holds one that is taken."""

import socket
from collections.abc import Callable

import psutil

from inferlane.errors import ConfigurationError

_LAST_PORT = 65_535
_COMMAND_CHARACTERS = 80


def claim_port(port: int, *, host: str = "127.0.0.1", remedy: str) -> int:
    """Return `port` if it can be bound now.

    Raises:
        ConfigurationError: somebody listens there; the message names them and ends with `remedy`.
    """
    if not is_free(port, host=host):
        raise ConfigurationError(f"port {port} on {host} is in use by {holder_of(port)}. Stop it, or {remedy}.")
    return port


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """Name the process that listens on the port, as well as this user may see it."""
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
        ]
        if listening:
            command = " ".join(psutil.Process(listening[0]).cmdline())
            return f"pid {listening[0]} ({command[:_COMMAND_CHARACTERS]})"
    except (psutil.Error, OSError):
        pass  # A process that ended meanwhile, or a system that shows sockets to root only.
    return "a process that this user may not see"


class OpsPorts:
    """One ops port a process name, from `first` upwards; a name keeps its port through restarts."""

    def __init__(self, first: int, *, host: str = "127.0.0.1", free: Callable[..., bool] = is_free) -> None:
        self._first = first
        self._host = host
        self._free = free
        self._port_of: dict[str, int] = {}

    def port_of(self, name: str) -> int:
        """Return the port of the process called `name`, chosen when it is first asked for.

        Raises:
            ConfigurationError: no port from `first` upwards is free.
        """
        if name not in self._port_of:
            taken = set(self._port_of.values())
            for port in range(self._first, _LAST_PORT + 1):
                if port not in taken and self._free(port, host=self._host):
                    self._port_of[name] = port
                    break
            else:
                raise ConfigurationError(f"no port from {self._first} upwards is free for {name}. Lower --ops-port.")
        return self._port_of[name]
