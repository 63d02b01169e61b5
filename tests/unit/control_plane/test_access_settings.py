"""Settings of TLS and passwords: what does not go together is refused, and no secret is printed."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import ConnectionPool

from control_plane.local.profile import StackOptions, attached_settings, stack_profile
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import client_arguments
from inferlane.runtime.redis.url import without_password

SASL = {
    "kafka_security_protocol": "SASL_PLAINTEXT",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "ann",
    "kafka_sasl_password": "s3cret",
}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "INFERLANE_KAFKA_SASL_MECHANISM, .*USERNAME, .*PASSWORD must be set"),
        (SASL | {"kafka_sasl_password": ""}, "INFERLANE_KAFKA_SASL_PASSWORD must be set"),
        (SASL | {"kafka_security_protocol": "PLAINTEXT"}, "INFERLANE_KAFKA_SASL_MECHANISM, .* would not be used"),
        (SASL | {"kafka_security_protocol": "SSL"}, "INFERLANE_KAFKA_SASL_MECHANISM, .* would not be used"),
        ({"kafka_ssl_cafile": "ca.pem"}, "INFERLANE_KAFKA_SSL_CAFILE would not be used"),
        (SASL | {"kafka_ssl_certfile": "c.pem"}, "INFERLANE_KAFKA_SSL_CERTFILE would not be used"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_keyfile": "key.pem"}, "INFERLANE_KAFKA_SSL_CERTFILE must be"),
        ({"kafka_security_protocol": "TLS"}, "INFERLANE_KAFKA_SECURITY_PROTOCOL='TLS'"),
        ({"redis_ssl_cafile": "ca.pem"}, "INFERLANE_REDIS_SSL_CAFILE would not be used"),
        (
            {"redis_url": "rediss://h:1/0", "redis_ssl_cafile": "none.pem"},
            "INFERLANE_REDIS_SSL_CAFILE='none.pem' is no",
        ),
        ({"redis_url": "http://h:1/0"}, "INFERLANE_REDIS_URL is no URL of a store"),
        ({"redis_url": "redis://:s3cret/x@h:6379/0"}, "INFERLANE_REDIS_URL is no URL of a store"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(overrides: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_settings(**overrides)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("given", ["inferlane_k\r\n", " inferlane_k", "inferlane_k"])
def test_a_key_read_from_a_file_is_sent_without_its_line_end(given: str) -> None:
    key = load_settings(api_key=given).client.key
    assert key is not None
    assert key.get_secret_value() == "inferlane_k"


def test_an_empty_key_is_none() -> None:
    assert load_settings(api_key="").client.key is None


@pytest.mark.parametrize("given", ["s3cret\nother", "s3cret\N{SNOWMAN}"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_said(given: str) -> None:
    """`doctor` said of it that the API's answer was no JSON."""
    with pytest.raises(ConfigurationError, match=r"INFERLANE_API_KEY has .* printable ASCII") as caught:
        load_settings(api_key=given)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("servers", "fault"),
    [
        ("", ""),
        ("kafka:one", "kafka:one"),
        ("kafka:0", "kafka:0"),
        ("kafka:65536", "kafka:65536"),
        ("http://kafka:9092", "http://kafka:9092"),
        ("kafka:1:2", "kafka:1:2"),
        (":9092", ":9092"),
        ("a:1,,b:2", ""),
        ("a:1, b c:2", "b c:2"),
        ("::1:9092", "::1:9092"),
    ],
)
def test_an_address_that_no_broker_can_have_is_refused(servers: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(kafka_bootstrap_servers=servers)
    assert f"INFERLANE_KAFKA_BOOTSTRAP_SERVERS={servers!r}: {fault!r} is no host and port" in str(caught.value)


@pytest.mark.parametrize("servers", ["kafka", "my_kafka:9092", "a.b-c.svc.:1, 10.0.0.1:65535", "[::1]:9092,[fe80::1]"])
def test_an_address_that_a_broker_can_have_is_taken(servers: str) -> None:
    assert load_settings(kafka_bootstrap_servers=servers).kafka.bootstrap_servers == servers


def test_without_settings_clients_connect_in_the_clear() -> None:
    access = client_arguments(load_settings().kafka)
    assert (access["security_protocol"], access["ssl_context"]) == ("PLAINTEXT", None)


def test_a_password_goes_to_the_client_and_to_no_log() -> None:
    settings = load_settings(**SASL)
    access = client_arguments(settings.kafka)
    assert (access["sasl_mechanism"], access["sasl_plain_username"]) == ("SCRAM-SHA-512", "ann")
    assert access["sasl_plain_password"] == "s3cret"  # noqa: S105 - of nobody
    assert "s3cret" not in repr(settings) + str(settings)


def test_tls_checks_the_name_of_the_broker() -> None:
    context = client_arguments(load_settings(kafka_security_protocol="SSL").kafka)["ssl_context"]
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("name", ["kafka_ssl_cafile", "kafka_ssl_certfile"])
def test_a_file_that_is_no_certificate_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nothing.pem"
    path.write_text("nothing")
    settings = load_settings(kafka_security_protocol="SSL", **{name: path})
    with pytest.raises(ConfigurationError, match=rf"INFERLANE_{name.upper()}='{path}'"):
        client_arguments(settings.kafka)


def test_processes_of_the_stack_get_the_password_and_so_does_who_attaches() -> None:
    profile = stack_profile(load_settings(kafka_bootstrap_servers="kafka:9092", **SASL), StackOptions())
    assert profile.environment["INFERLANE_KAFKA_SASL_PASSWORD"] == "s3cret"  # noqa: S105 - of nobody
    attached = attached_settings(load_settings(), profile.environment)
    assert client_arguments(attached.kafka)["sasl_plain_password"] == "s3cret"  # noqa: S105 - of nobody


def test_who_attaches_from_another_folder_finds_the_files_of_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths were taken from the current folder of the command, which checked models that are not served."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    monkeypatch.chdir(own)
    (own / "ca.pem").write_text("")
    named = load_settings(
        redis_url="rediss://store:6379/0", redis_ssl_cafile=Path("ca.pem"), api_keys_file=Path("keys.toml")
    )
    profile = stack_profile(named, StackOptions())
    monkeypatch.chdir(other)
    attached = attached_settings(load_settings(), profile.environment)
    assert attached.stack.models_dir == own / ".inferlane" / "models"
    assert attached.api.keys_file == own / "keys.toml"
    assert attached.store.redis_url == f"rediss://store:6379/0?ssl_ca_certs={own}/ca.pem"
    # What the command's own environment names goes before.
    mine = load_settings(models_dir=Path("mine"))
    assert attached_settings(mine, profile.environment).stack.models_dir == Path("mine")


def test_what_is_written_to_another_broker_is_not_handed_to_the_stack() -> None:
    profile = stack_profile(load_settings(state_dir=Path("/srv")), StackOptions())
    assert attached_settings(load_settings(), profile.environment).kafka.arrivals_dir == Path("/srv/arrivals")
    elsewhere = load_settings(kafka_bootstrap_servers="kafka:9092")
    assert attached_settings(elsewhere, profile.environment).kafka.arrivals_dir is None


def test_records_go_in_long_runs_where_there_is_one_worker() -> None:
    own_broker = load_settings(kafka_bootstrap_servers="kafka:9092")
    assert stack_profile(own_broker, StackOptions()).settings.kafka.sticky_records == 64
    assert stack_profile(own_broker, StackOptions(workers=2)).settings.kafka.sticky_records == 16


def test_the_authority_of_the_store_is_in_its_url_once(tmp_path: Path) -> None:
    authority = tmp_path / "an authority.pem"
    authority.touch()
    first = load_settings(redis_url="rediss://u:p%40@h:1/0", redis_ssl_cafile=authority)
    again = load_settings(redis_url=first.store.redis_url, redis_ssl_cafile=authority)
    assert first.store.redis_url == again.store.redis_url
    assert first.store.redis_url.startswith("rediss://u:p%40@h:1/0?ssl_ca_certs=")
    assert first.store.redis_url.endswith("an%20authority.pem")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://user:pass@host:6380/1?ssl_ca_certs=/x&password=pass", "rediss://host:6380/1"),
        ("redis://:p%40ss@host/0", "redis://host/0"),
        ("unix://user:pass@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


# NUL cannot be in an environment variable, a surrogate in no text that is sent.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.one_of(st.just(""), TEXTS), TEXTS, st.sampled_from(["redis://h:1/0", "rediss://h/2?ssl_ca_certs=x"]))
def test_any_password_of_the_store_reaches_the_client_and_the_next_process(user: str, password: str, url: str) -> None:
    settings = load_settings(redis_url=url, redis_username=user, redis_password=password)
    options = ConnectionPool.from_url(settings.store.redis_url).connection_kwargs
    assert (options.get("username") or "", options["password"]) == (user, password)
    assert options["db"] == int(url.split("/")[3][0])
    inherited = {name.removeprefix("INFERLANE_").lower(): value for name, value in settings.environment().items()}
    assert load_settings(**inherited).store.redis_url == settings.store.redis_url


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"redis_username": "ann"}, "INFERLANE_REDIS_USERNAME would not be used"),
        ({"redis_url": "redis://ann:s3cret@h:1/0", "redis_password": "0ther"}, "keep one of them"),
        ({"redis_url": "redis://bob:0ther@h:1/0", "redis_username": "ann", "redis_password": "0ther"}, "keep one"),
    ],
)
def test_two_logins_of_the_store_or_half_of_one_are_refused_and_not_repeated(chosen: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        load_settings(**chosen)
    assert "s3cret" not in str(refused.value)
    assert "0ther" not in str(refused.value)
