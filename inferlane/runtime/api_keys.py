"""API keys: the key file, how a key is made and digested, and how the file is changed.

The file is TOML, so that a person can read it and a Kubernetes Secret can carry it. It holds digests alone. A key is
256 random bits, so a plain SHA-256 is the right digest: slow, salted hashes protect secrets that can be guessed, and
nobody guesses 2^256; a slow one would only cost each request its milliseconds.
"""

import fcntl
import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from inferlane.errors import ConfigurationError, clipped
from inferlane.runtime.whole_file import write_durably

# Lets people and scanners for leaked secrets recognise a key.
_PREFIX = "inferlane_"
_KEY_BYTES = 32
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_FILE_MODE = 0o600

Name = Annotated[str, msgspec.Meta(pattern=f"^{_NAME}$")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Scope(StrEnum):
    """What a key may do. `all-requests` allows what `predict` allows, for requests of every key; `admin` allows all."""

    PREDICT = "predict"
    ALL_REQUESTS = "all-requests"
    ADMIN = "admin"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry. `sha256` is the digest of the whole key, in hexadecimal."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    sha256: Digest
    created: datetime

    def may(self, scope: Scope) -> bool:
        """Return whether the key may do what needs `scope`."""
        held = self.scopes
        return scope in held or Scope.ADMIN in held or (scope is Scope.PREDICT and Scope.ALL_REQUESTS in held)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # Required: a file that was cut off at its start must not be taken for one whose keys were all revoked.
    keys: tuple[ApiKey, ...]


_NO_KEYS = b"keys = []\n"


def digest_of(key: bytes) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(key).digest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the entries of the file; none if it says `keys = []`, as it does once the last key is revoked.

    Raises:
        ConfigurationError: the file is missing, empty, cannot be read, or is not of the form.
    """
    try:
        keys = msgspec.toml.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no keys file {path} (INFERLANE_API_KEYS_FILE); make one with "
            "`inferlane keys create --name NAME --scope predict`"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the keys file {path} cannot be read: {clipped(str(error))}. docs/security.md has its format."
        ) from error
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        if repeated := {value for value in values if values.count(value) > 1}:
            raise ConfigurationError(f"the keys file {path} has {field} {min(repeated)!r} twice; remove one entry")
    return keys


def create_key(path: Path, *, name: str, scopes: Sequence[Scope]) -> str:
    """Add a new key to the file, which is created if missing, and return the key: it is shown only here.

    Raises:
        ConfigurationError: the name is taken or invalid, there is no scope, or the file cannot be changed.
    """
    if not re.fullmatch(_NAME, name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a key; use 1 to 64 ASCII letters, digits, `.`, `_` and `-`"
        )
    if not scopes:
        raise ConfigurationError(f"the key {name!r} has no scope; name one of: {', '.join(Scope)}")
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    with _changing(path):
        # An empty file may have been made for its owner and mode.
        present = read_keys(path) if path.exists() and path.stat().st_size else ()
        if any(other.name == name for other in present):
            raise ConfigurationError(f"there is a key named {name!r} in {path}; revoke it or choose another name")
        entry = ApiKey(
            name=name,
            scopes=tuple(sorted(set(scopes))),
            sha256=digest_of(key.encode()).hex(),
            created=datetime.now(UTC).replace(microsecond=0),
        )
        _write(path, (*present, entry))
    return key


def revoke_key(path: Path, name: str) -> None:
    """Remove the entry of that name; running API processes refuse the key within about a second.

    Raises:
        ConfigurationError: there is no such key, or the file cannot be changed.
    """
    with _changing(path):
        present = read_keys(path)
        remaining = tuple(key for key in present if key.name != name)
        if len(remaining) == len(present):
            names = ", ".join(key.name for key in present) or "none"
            raise ConfigurationError(f"there is no key named {name!r} in {path}; there are: {names}")
        _write(path, remaining)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Lock the file: of two changes at once, the later write would restore what the earlier one revoked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ConfigurationError(
            f"the keys file {path} cannot be changed: {error.strerror}. Change a mounted secret at its source."
        ) from error


def _write(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file atomically, so that nobody reads half of it; its permissions stay."""
    mode = path.stat().st_mode & 0o777 if path.exists() else _FILE_MODE
    write_durably(path, "\n".join(_entry(key) for key in keys).encode() or _NO_KEYS, mode=mode)


def _entry(key: ApiKey) -> str:
    # Names, scopes and digests hold nothing that TOML would have to escape: their patterns say so.
    scopes = ", ".join(f'"{scope}"' for scope in key.scopes)
    lines = (
        "[[keys]]",
        f'name = "{key.name}"',
        f"scopes = [{scopes}]",
        f'sha256 = "{key.sha256}"',
        f"created = {key.created.isoformat()}",
    )
    return "\n".join(lines) + "\n"
