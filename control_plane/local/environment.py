"""What of our environment a child process gets: what it needs, and no secret that it does not use."""

import re
from collections.abc import Mapping

_OUR_PREFIX = "INFERLANE_"
_STORE_USERS = frozenset({"api", "router", "worker"})
# Our settings that hold a secret, with the services that use it. All of them use the broker.
_SECRETS: Mapping[str, frozenset[str]] = {
    "INFERLANE_API_KEY": frozenset({"dashboard"}),
    "INFERLANE_REDIS_URL": _STORE_USERS,
    "INFERLANE_REDIS_PASSWORD": _STORE_USERS,
    # No secrets, but refused where the URL and the password are not.
    "INFERLANE_REDIS_USERNAME": _STORE_USERS,
    "INFERLANE_REDIS_SSL_CAFILE": _STORE_USERS,
    "INFERLANE_API_KEYS_FILE": frozenset({"api"}),
}
# OpenTelemetry's own variables may hold the key of a collector, which every service sends its spans to.
_READ_BY_ALL = (_OUR_PREFIX, "OTEL_")
# Names under which other programs keep secrets. No process of ours reads them.
_LOOKS_SECRET = re.compile(
    r"(?:^|_)(?:[A-Z]*PASSWORD|PASSWD|(?<=_)PWD|PASSPHRASE|SECRETS?|TOKENS?|CREDENTIALS?|(?:API|ACCESS|PRIVATE|SECRET|AUTH)_?KEYS?|AUTH)(?:_|$)",
    re.IGNORECASE,
)


def child_environment(
    service: str, ours: Mapping[str, str], chosen: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a process of this service: ours, what the profile chose, and what is its own.

    A process that is taken over, or whose environment somebody may read, gives away only what it needed.
    """
    return {name: value for name, value in {**ours, **chosen, **own}.items() if _may_have(service, name)}


def _may_have(service: str, name: str) -> bool:
    users = _SECRETS.get(name)
    if users is not None:
        return service in users
    return name.startswith(_READ_BY_ALL) or not _LOOKS_SECRET.search(name)
