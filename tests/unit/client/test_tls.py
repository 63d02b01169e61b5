"""Certificates: whom the client trusts, and how it shows who it is; against a real TLS server."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from inferlane_client import ConnectionFailed, Tls
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer, serving


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, tmp_path: Path) -> Iterator[ScriptedServer]:
    """A server with a certificate of the authority, which asks its clients for one too."""
    app = ScriptedServer(answers=[Scripted(document={"models": []})])
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    certificate.write_to_path(str(tmp_path / "server.pem"))
    with serving(
        app,
        "https",
        ssl_certfile=tmp_path / "server.pem",
        ssl_ca_certs=str(tmp_path / "ca.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    ):
        yield app


def test_a_server_is_trusted_by_its_authority_and_gets_the_clients_certificate(
    secure: ScriptedServer, ask: Ask, tmp_path: Path
) -> None:
    tls = Tls(ca_file=tmp_path / "ca.pem", client_cert=tmp_path / "client.pem")
    assert ask(secure.url, lambda client: client.models(), tls=tls) == ()


def test_an_unknown_authority_is_told_at_once_for_no_retry_mends_it(secure: ScriptedServer, ask: Ask) -> None:
    with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED") as raised:
        ask(secure.url, lambda client: client.models(), timeout_s=600)
    assert not raised.value.retryable


def test_any_server_is_trusted_where_the_caller_says_so(secure: ScriptedServer, ask: Ask, tmp_path: Path) -> None:
    tls = Tls(verify=False, client_cert=tmp_path / "client.pem")
    assert ask(secure.url, lambda client: client.models(), tls=tls) == ()
