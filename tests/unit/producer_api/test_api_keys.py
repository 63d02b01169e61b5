"""API keys: made once, kept as digests, found in constant time, gone when they are revoked."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.api_keys import Scope, create_key, digest_of, read_keys, revoke_key
from inferlane.runtime.config import load_settings
from producer_api.http import auth
from producer_api.http.auth import OPEN_PATHS, KeyRing, open_key_ring, required_scope, sent_key
from producer_api.http.error_responses import UnauthorizedError
from tests.support.fakes.clock import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_the_file_holds_the_digest_and_not_the_key(path: Path) -> None:
    """Guards `sha256=digest_of(…)` in `create_key`; fails when the key itself is written."""
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    text = path.read_text()
    assert key not in text
    assert key.removeprefix("inferlane_") not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_created_is_read_back_and_a_revoked_key_is_gone(path: Path) -> None:
    keys = [create_key(path, name=name, scopes=[scope]) for name, scope in (("a", Scope.PREDICT), ("b", Scope.ADMIN))]
    assert [(key.name, key.scopes) for key in read_keys(path)] == [("a", (Scope.PREDICT,)), ("b", (Scope.ADMIN,))]
    assert [bytes.fromhex(key.sha256) for key in read_keys(path)] == [digest_of(key.encode()) for key in keys]
    revoke_key(path, "a")
    assert [key.name for key in read_keys(path)] == ["b"]


@pytest.mark.parametrize(
    ("name", "scopes", "says"),
    [("a b", [Scope.PREDICT], "cannot be the name"), ("", [Scope.PREDICT], "cannot be"), ("new", [], "no scope")],
)
def test_a_key_that_cannot_be_is_refused(path: Path, name: str, scopes: list[Scope], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        create_key(path, name=name, scopes=scopes)
    assert not path.exists()


def test_a_name_is_taken_once(path: Path) -> None:
    create_key(path, name="shop", scopes=[Scope.PREDICT])
    with pytest.raises(ConfigurationError, match="revoke it"):
        create_key(path, name="shop", scopes=[Scope.ADMIN])


@pytest.mark.parametrize(
    "text",
    [
        "keys = 3",
        "[[keys]]\nname = 'x'",
        "[[keys]]\nname = 'x'\nscopes = ['root']\nsha256 = '" + "0" * 64 + "'\ncreated = 2026-01-01T00:00:00Z",
        "[[keys]]\nname = 'x'\nscopes = []\nsha256 = '" + "0" * 64 + "'\ncreated = 2026-01-01T00:00:00Z",
        "[[keys]]\nname = 'x'\nscopes = ['admin']\nsha256 = 'short'\ncreated = 2026-01-01T00:00:00Z",
        "not toml",
        # An empty file, as one that was cut off is.
        "",
        # What the TOML parser raises errors of other kinds for.
        "keys = []\n[more]\nx = " + "9" * 5_000,
        "keys = " + "[" * 3_000 + "]" * 3_000,
        "keys = []\nx = 9999-99-99",
    ],
)
def test_a_file_that_holds_no_keys_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(path)


def test_a_key_is_found_and_no_other(path: Path) -> None:
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    ring = KeyRing(path, clock=FakeClock())
    found = ring.find(key.encode())
    assert found is not None
    assert found.name == "shop"
    for other in (b"", key[:-1].encode(), key.encode() + b" ", b"\xff"):
        assert ring.find(other) is None


@pytest.mark.parametrize(
    ("authorization", "api_key", "key"),
    [
        (b"Bearer one", None, b"one"),
        (b"bearer  one ", b"two", b"one"),
        (None, b" two ", b"two"),
    ],
)
def test_a_key_may_come_in_either_header_and_authorization_counts(
    authorization: bytes | None, api_key: bytes | None, key: bytes
) -> None:
    assert sent_key(authorization, api_key) == key


@pytest.mark.parametrize(
    ("authorization", "api_key", "says"),
    [
        (None, None, "has no key"),
        (None, b" ", "has no key"),
        (b"", None, "has no key"),
        (b"", b"two", "has no key"),
        (b"Bearer", None, "has no key"),
        (b"Bearer  ", b"two", "has no key"),
        (b"Basic eDp5", b"two", "of another scheme"),
        (b"Bearerone", None, "of another scheme"),
    ],
)
def test_a_call_without_a_key_or_of_another_scheme_has_none(
    authorization: bytes | None, api_key: bytes | None, says: str
) -> None:
    with pytest.raises(UnauthorizedError, match=says):
        sent_key(authorization, api_key)


def test_a_digest_must_agree_in_every_byte(path: Path) -> None:
    """Guards `hmac.compare_digest` in `KeyRing.find`; fails when finding the head of the digest is enough."""
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    digest = digest_of(key.encode()).hex()
    path.write_text(path.read_text().replace(digest, digest[:16] + "0" * 48))
    assert KeyRing(path, clock=FakeClock()).find(key.encode()) is None


def test_a_revoked_key_ends_and_a_new_one_works_without_a_restart(path: Path) -> None:
    """Guards `_follow_file` in `KeyRing.find`; fails when the file is read at start alone."""
    clock = FakeClock()
    old = create_key(path, name="old", scopes=[Scope.PREDICT])
    ring = KeyRing(path, clock=clock)
    assert ring.find(old.encode()) is not None
    revoke_key(path, "old")
    new = create_key(path, name="new", scopes=[Scope.PREDICT])
    clock.advance(1.0)
    assert ring.find(old.encode()) is None
    assert ring.find(new.encode()) is not None


@pytest.mark.parametrize(
    "text",
    [None, "not toml", "", "keys = []\n[more]\nx = " + "9" * 5_000, "keys = " + "[" * 3_000 + "]" * 3_000],
    ids=["missing", "malformed", "empty", "long number", "deep nesting"],
)
def test_keys_that_cannot_be_read_let_nobody_in_until_they_can(path: Path, text: str | None) -> None:
    """Guards `self._entries = None` in `KeyRing._follow_file`; fails when the keys of before stay in force."""
    clock = FakeClock()
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    good = path.read_text()
    ring = KeyRing(path, clock=clock)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    clock.advance(1.0)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            ring.find(key.encode())
        assert not ring.is_readable
        clock.advance(1.0)
    path.write_text(good)
    clock.advance(1.0)
    assert ring.find(key.encode()) is not None


def test_keys_are_not_good_while_reading_them_fails_in_a_way_nobody_expected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the order in `KeyRing._follow_file`: the keys of before end first, whatever reading raises."""
    clock = FakeClock()
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    ring = KeyRing(path, clock=clock)
    revoke_key(path, "shop")

    def fail(_path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(auth, "read_keys", fail)
    clock.advance(1.0)
    with pytest.raises(MemoryError):
        ring.find(key.encode())
    with pytest.raises(UnavailableError):
        ring.find(key.encode())


def test_a_file_that_may_be_read_again_is_read_though_it_has_not_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mode that is repaired changes neither the size nor the time of a file."""
    clock = FakeClock()
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    ring = KeyRing(path, clock=clock)

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    os.utime(path, (1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        clock.advance(1.0)
        assert not ring.is_readable
    clock.advance(1.0)
    assert ring.find(key.encode()) is not None


def test_the_last_key_can_be_revoked_and_another_one_created(path: Path) -> None:
    clock = FakeClock()
    key = create_key(path, name="shop", scopes=[Scope.PREDICT])
    ring = KeyRing(path, clock=clock)
    revoke_key(path, "shop")
    clock.advance(1.0)
    assert (read_keys(path), ring.is_readable, ring.find(key.encode())) == ((), True, None)
    new = create_key(path, name="other", scopes=[Scope.PREDICT])
    clock.advance(1.0)
    assert ring.find(new.encode()) is not None


def test_the_first_key_may_be_created_in_an_empty_file_whose_mode_stays(path: Path) -> None:
    path.touch(mode=0o640)
    create_key(path, name="shop", scopes=[Scope.PREDICT])
    assert [key.name for key in read_keys(path)] == ["shop"]
    assert path.stat().st_mode & 0o777 == 0o640


METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"])


@given(METHODS, st.text(max_size=30).map(lambda rest: "/" + rest))
def test_what_nobody_listed_is_never_open_and_its_writes_need_admin(method: str, path: str) -> None:
    scope = required_scope(method, path)
    if path not in OPEN_PATHS:
        assert scope is (Scope.PREDICT if method in {"GET", "HEAD", "OPTIONS"} else Scope.ADMIN)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/models/predict", Scope.PREDICT),
        ("GET", "/v1/predictions/x", Scope.PREDICT),
        ("DELETE", "/v1/predictions/x", Scope.PREDICT),
        ("GET", "/v1/traffic-split", Scope.PREDICT),
        ("POST", "/v1/traffic-split", Scope.ADMIN),
        ("POST", "/v2/models/iris/infer", Scope.PREDICT),
        ("POST", "/v2/models/iris/versions/v1/infer", Scope.PREDICT),
        ("POST", "/v2/models/iris/infer/", Scope.PREDICT),
        ("POST", "/v2/models/iris//infer", Scope.PREDICT),
        ("POST", "/v2/models/a/b/infer", Scope.ADMIN),
        ("POST", "/v2/repository/index", Scope.PREDICT),
        ("POST", "/v2/repository/models/iris/load", Scope.ADMIN),
        ("GET", "/v2", Scope.PREDICT),
        ("GET", "/v2/models/iris/ready", Scope.PREDICT),
        ("GET", "/v2/health/live", None),
        ("GET", "/v2/health/ready", None),
        ("GET", "/livez", None),
        ("GET", "/metrics", None),
    ],
)
def test_what_each_call_needs(method: str, path: str, scope: Scope | None) -> None:
    assert required_scope(method, path) is scope


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "api.example.org"])
def test_an_api_without_keys_does_not_start_where_others_reach_it(host: str) -> None:
    """Guards the `is_loopback` branch of `open_key_ring`; fails when it returns None there."""
    with pytest.raises(ConfigurationError, match=r"INFERLANE_API_KEYS_FILE.*INFERLANE_API_AUTH=off"):
        open_key_ring(load_settings(api_host=host).api, clock=FakeClock())
    assert open_key_ring(load_settings(api_host=host, api_auth="off").api, clock=FakeClock()) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_api_without_keys_is_open_on_loopback(host: str) -> None:
    assert open_key_ring(load_settings(api_host=host).api, clock=FakeClock()) is None


def test_a_keys_file_that_is_not_there_does_not_open_the_api(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="inferlane keys create"):
        open_key_ring(load_settings(api_keys_file=path).api, clock=FakeClock())
