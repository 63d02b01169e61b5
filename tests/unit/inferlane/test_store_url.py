"""URLs of a store: every form is read, no message repeats a password."""

import pytest

from inferlane.errors import ConfigurationError
from inferlane.runtime.redis.url import StoreKind, parse_store_url, without_password


def test_sentinels_are_read_with_their_service() -> None:
    address = parse_store_url(
        "rediss+sentinel://me:p%40ss@a:1,b/my%20master/3?sentinel_password=s&ssl_ca_certs=/ca.pem"
    )
    assert (address.kind, address.has_tls, address.hosts) == (StoreKind.SENTINEL, True, (("a", 1), ("b", 26_379)))
    assert (address.username, address.password, address.service, address.db) == ("me", "p@ss", "my master", 3)
    assert dict(address.options) == {"sentinel_password": "s", "ssl_ca_certs": "/ca.pem"}


def test_a_cluster_is_read_with_its_nodes() -> None:
    address = parse_store_url("redis+cluster://:secret@a:7000,[::1]:7001,c")
    assert (address.kind, address.hosts) == (StoreKind.CLUSTER, (("a", 7000), ("::1", 7001), ("c", 6379)))
    assert (address.username, address.password) == (None, "secret")


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@host",
        "redis+ring://:secret@host",
        "redis+sentinel://:secret@host:26379",
        "redis+sentinel://:secret@host:26379/service/db",
        "redis+cluster://:secret@host:70000",
        "redis+cluster://:secret@host,",
        "redis+cluster://:secret@host/1",
        "redis+cluster://:secret@host?nonsense=secret",
        "redis://:secret@host:port",
        "unix+cluster:///tmp/secret",
    ],
)
def test_what_no_client_can_use_is_refused_and_the_password_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="INFERLANE_REDIS_URL") as refusal:
        parse_store_url(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis+cluster://me:secret@a:1,b:2", "redis+sentinel://me:secret@a:1,b:2/m/0?sentinel_password=secret"]
)
def test_a_url_is_shown_without_its_passwords(url: str) -> None:
    assert "secret" not in without_password(url)
    assert "a:1,b:2" in without_password(url)
