"""The certificate of a port: when it is refused, and how a changed one is taken up."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.http.certificate import CertificateFiles, PortCertificate
from producer_api.grpc_server.grpc_port import _renewal, open_certificate
from tests.support.certificates import certificate_settings, write_certificates
from tests.support.fakes.clock import FakeClock


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    paths = certificate_settings(tmp_path, "API")
    return CertificateFiles(chain=paths["api_ssl_certfile"], key=paths["api_ssl_keyfile"], settings=("CHAIN", "KEY"))


def clock_at(year: int) -> FakeClock:
    clock = FakeClock()
    clock.advance(datetime(year, 1, 1, tzinfo=UTC).timestamp() - clock.now_s())
    return clock


def encrypt(key: Path) -> None:
    plain = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


@pytest.mark.parametrize(
    ("year", "says"), [(1990, "is not valid before 2000-01-01"), (3500, "expired at 3000-01-01")], ids=["early", "late"]
)
def test_a_certificate_is_refused_outside_its_time(files: CertificateFiles, year: int, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{says}.*CHAIN and KEY"):
        PortCertificate(files, clock=clock_at(year))


def test_a_certificate_that_expires_is_not_valid_until_it_is_renewed(files: CertificateFiles, tmp_path: Path) -> None:
    clock = clock_at(2026)
    write_certificates(tmp_path, not_after=datetime(2027, 1, 1, tzinfo=UTC))
    certificate = PortCertificate(files, clock=clock)
    assert certificate.is_valid()
    clock.advance(2 * 365 * 86_400.0)
    assert not certificate.is_valid()
    write_certificates(tmp_path, not_after=datetime(2030, 1, 1, tzinfo=UTC))
    assert certificate.is_valid()


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(files: CertificateFiles) -> None:
    """Guards `password=` of `load_cert_chain`; without it OpenSSL asks on the terminal, and the process waits."""
    encrypt(files.key)
    with pytest.raises(ConfigurationError, match="the key is encrypted, and must have no passphrase"):
        PortCertificate(files, clock=clock_at(2026))


def test_a_key_that_is_encrypted_later_changes_nothing(files: CertificateFiles) -> None:
    certificate = PortCertificate(files, clock=clock_at(2026))
    before = certificate.current
    encrypt(files.key)
    assert certificate.is_valid()
    assert certificate.current is before


def test_grpc_gets_a_renewed_certificate_though_a_probe_has_read_it_first(tmp_path: Path) -> None:
    """Guards `_renewal`; fails when gRPC is told only what it has read itself."""
    certificate = open_certificate(load_settings(**certificate_settings(tmp_path, "GRPC")).api)
    assert certificate is not None
    renewed = _renewal(certificate)
    assert renewed() is None
    write_certificates(tmp_path)
    assert certificate.is_valid()
    assert renewed() is certificate.current
    assert renewed() is None
