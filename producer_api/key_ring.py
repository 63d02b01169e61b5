"""The keys in force: the keys file in memory, read again when it changes."""

import hmac
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.api_keys import ApiKey, digest_of, read_keys

if TYPE_CHECKING:
    from inferlane.runtime.clock import Clock

log = structlog.get_logger(__name__)

# How long a revoked key may still work; each check is one `stat`.
_CHECK_EVERY_S = 1.0
# Keys are found by the head of their digest and then compared whole. 8 bytes of a digest tell nothing of the key, and
# no two keys share them by chance.
_HEAD_BYTES = 8

_Stamp = tuple[int, int, int]
_Entry = tuple[bytes, ApiKey]


class KeyRing:
    """The keys of one file. One event loop.

    Raises:
        ConfigurationError: the file is not there or does not hold keys.
    """

    def __init__(self, path: Path, *, clock: "Clock") -> None:
        self._path = path
        self._clock = clock
        self._stamp = _stamp_of(path)
        self._entries: dict[bytes, _Entry] | None = _load(path)
        self._checked_s = clock.monotonic_s()

    def find(self, key: bytes) -> ApiKey | None:
        """The entry of a key that a client sent, or None.

        Raises:
            UnavailableError: the file has become unreadable: a revocation that cannot be read must not be overlooked.
        """
        self._follow_file()
        if self._entries is None:
            raise UnavailableError("the keys file cannot be read, so no key is good now; the log of the API says why")
        digest = digest_of(key)
        found = self._entries.get(digest[:_HEAD_BYTES])
        # The lookup is by a digest's head, which nobody steers without knowing the key; the rest takes constant time.
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]

    def _follow_file(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._checked_s < _CHECK_EVERY_S:
            return
        self._checked_s = now_s
        stamp = _stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = _load(self._path)
        except ConfigurationError as error:
            self._entries = None
            log.error("keys_unreadable", path=str(self._path), error=str(error))  # noqa: TRY400 - the message says all
        else:
            log.info("keys_read", path=str(self._path), keys=[key.name for _, key in self._entries.values()])


def _load(path: Path) -> dict[bytes, _Entry]:
    entries = ((bytes.fromhex(key.sha256), key) for key in read_keys(path))
    return {digest[:_HEAD_BYTES]: (digest, key) for digest, key in entries}


def _stamp_of(path: Path) -> _Stamp | None:
    """What changes when the file is written, replaced, or (a mounted secret) linked anew; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
