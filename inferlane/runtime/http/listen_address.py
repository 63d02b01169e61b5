"""What a server binds for the host of a setting: a family and an address of it."""

import errno
import socket
from dataclasses import dataclass
from typing import Self

_EVERY_ADDRESS = "::"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """An address to bind; `is_dual_stack`: one socket takes connections of IPv4 too."""

    family: socket.AddressFamily
    host: str
    is_dual_stack: bool = False

    @classmethod
    def of(cls, host: str) -> Self:
        """Resolve the host. `::` is every address of IPv6 and, where the system can, of IPv4 too.

        A name is bound at an address that clients get for it too: the first of IPv4, else the first of IPv6. Where
        `localhost` is ::1 alone, glibc still answers 127.0.0.1 to whoever asks for IPv4, and no client is told of that.

        Raises:
            OSError: nobody knows the name, or it is no name.
        """
        if ":" in host:
            is_dual_stack = host == _EVERY_ADDRESS and socket.has_dualstack_ipv6()
            return cls(family=socket.AF_INET6, host=host, is_dual_stack=is_dual_stack)
        if not host:
            return cls(family=socket.AF_INET, host=host)
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except UnicodeError as error:
            raise OSError(errno.EINVAL, f"no name of a host has such parts: {error}") from error
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        return cls(family=family, host=str(address[0]))
