"""The bodies of all calls under way, within one limit: many clients with a large body each must not fill the memory."""

from typing import Any

from inferlane.errors import OverloadedError

_SCOPE_KEY = "inferlane.held"


class HeldBytes:
    """Counts what calls hold. One event loop."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count more of a body.

        Raises:
            OverloadedError: all bodies together would be over the limit.
        """
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise OverloadedError(
                f"the bodies of the calls under way have {self.held_bytes} bytes, the limit is {self._limit_bytes} "
                "(INFERLANE_MAX_PENDING_BYTES); send again later, or smaller requests"
            )
        self.held_bytes += size_bytes


class Hold:
    """What one call holds: `add` as its body comes, `release` when it is answered."""

    def __init__(self, total: HeldBytes) -> None:
        self._total = total
        self._bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count more of this call's body.

        Raises:
            OverloadedError: all bodies together would be over the limit.
        """
        self._total.add(size_bytes)
        self._bytes += size_bytes

    def release(self) -> None:
        """Give back what this call held."""
        self._total.held_bytes -= self._bytes
        self._bytes = 0


def put_hold(scope: Any, hold: Hold) -> None:
    """Note in the scope what counts its body."""
    scope[_SCOPE_KEY] = hold


def hold_in(scope: Any) -> Hold | None:
    """What counts the body of this call, if anything does."""
    hold: Hold | None = scope.get(_SCOPE_KEY)
    return hold
