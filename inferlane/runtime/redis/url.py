"""Where the store is: one node, a master that Sentinels know, or a cluster. Pure.

The forms of one node are redis-py's own. The others follow what clients of Redis in Python have in common:
`redis+sentinel://user:password@host:26379,host:26379/service/db` and `redis+cluster://user:password@host:6379,host:6379`,
with `rediss+…` for TLS.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from inferlane.errors import ConfigurationError, clipped

# A message never says the URL, which may hold a password.
_FORMS = (
    "INFERLANE_REDIS_URL is no URL of a store; write redis://, rediss:// or unix://, as in "
    "rediss://user:password@host:6379/0, or redis+sentinel://host:26379,host:26379/service/0, or "
    "redis+cluster://host:6379,host:6379, with %-encoding for / # ? @ and : in a password"
)
_SENTINEL_PORT, _PORT = 26_379, 6_379
CA_OPTION = "ssl_ca_certs"
_OPTIONS = {CA_OPTION, "ssl_cert_reqs", "sentinel_username", "sentinel_password"}


class StoreKind(StrEnum):
    """How the node to ask is found."""

    NODE = "node"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """A parsed URL; of a single node only what redis-py does not parse itself, and where it is."""

    kind: StoreKind
    has_tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str = ""
    db: int = 0
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def parse_store_url(url: str) -> StoreAddress:
    """Read the URL of a store.

    Raises:
        ConfigurationError: no client can use it; the message says what is wrong, and never the URL.
    """
    try:
        netloc, parts = _split(url)
        scheme, _, kind = parts.scheme.partition("+")
        if not kind:
            is_url = scheme in {"redis", "rediss", "unix"} and (parts.port is None or bool(parts.hostname))
            if not is_url:
                raise ConfigurationError(_FORMS + ".")
            host = [(parts.hostname, parts.port or _PORT)] if parts.hostname else []
            return StoreAddress(kind=StoreKind.NODE, has_tls=scheme == "rediss", hosts=tuple(host))
        if scheme not in {"redis", "rediss"} or kind not in {StoreKind.SENTINEL, StoreKind.CLUSTER}:
            raise ConfigurationError(_FORMS + ".")
        login, _, places = netloc.rpartition("@")
        username, _, password = login.partition(":")
        hosts = tuple(
            _host(place, _SENTINEL_PORT if kind == StoreKind.SENTINEL else _PORT) for place in places.split(",")
        )
        service, db = _path(parts.path, StoreKind(kind))
    except ValueError:
        # `from None`: the parser's own message quotes what it could not read, which may be the password.
        raise ConfigurationError(_FORMS + ".") from None
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted({name for name, _ in options} - _OPTIONS):
        raise ConfigurationError(
            f"INFERLANE_REDIS_URL has options that are not known: {clipped(', '.join(unknown))}; "
            f"there are {', '.join(sorted(_OPTIONS))}."
        )
    return StoreAddress(
        kind=StoreKind(kind),
        has_tls=scheme == "rediss",
        hosts=hosts,
        username=unquote(username) or None,
        password=unquote(password) or None,
        service=service,
        db=db,
        options=options,
    )


def without_password(redis_url: str) -> str:
    """Return the URL as it may be shown: scheme, hosts and path."""
    netloc, parts = _split(redis_url)
    return f"{parts.scheme}://{netloc.rpartition('@')[2]}{parts.path}"


def options_of(redis_url: str) -> dict[str, str]:
    """Return the options behind the `?` of the URL."""
    return dict(parse_qsl(_split(redis_url)[1].query, keep_blank_values=True))


def without_option(redis_url: str, name: str) -> str:
    """Return the URL without one of its options, and else as it is."""
    address, _, query = redis_url.partition("?")
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] != name)
    return f"{address}?{kept}" if kept else address


def holds_password(redis_url: str) -> bool:
    """Whether a password is anywhere in the URL: that of the store or of its Sentinels, before the hosts or behind."""
    login, _, _ = _split(redis_url)[0].rpartition("@")
    return ":" in login or any("password" in name for name in options_of(redis_url))


# Several hosts are split off before the rest is read: newer Pythons, and those that distributions patch, refuse an IPv6
# address in brackets that is not the whole host.
_SEVERAL_HOSTS = re.compile(r"(rediss?\+[a-z]+://)([^/?#]*)", re.IGNORECASE)


def _split(url: str) -> tuple[str, SplitResult]:
    """Return the part with login and hosts, and the parts of the URL; those of the hosts only where there is one."""
    several = _SEVERAL_HOSTS.match(url)
    if several is None:
        parts = urlsplit(url)
        return parts.netloc, parts
    return several[2], urlsplit(several[1] + url[several.end() :])


def _host(place: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or port


def _path(path: str, kind: StoreKind) -> tuple[str, int]:
    """Return the service and database of the path."""
    first, _, rest = path.strip("/").partition("/")
    if kind is StoreKind.SENTINEL:
        if not first:
            raise ConfigurationError(
                "INFERLANE_REDIS_URL names no service that the Sentinels watch; write it after the hosts, as in "
                "redis+sentinel://host:26379,host:26379/mymaster/0."
            )
        return unquote(first), int(rest or 0)
    if first not in {"", "0"} or rest:
        raise ConfigurationError("INFERLANE_REDIS_URL names a database; a cluster has only database 0.")
    return "", 0
