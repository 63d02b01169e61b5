"""The certificate of a port: a chain and its key in two files, which are read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from inferlane.contracts.kafka_record import format_time
from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
T = TypeVar("T")
FileStamp = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """The files of a chain and its key in PEM, and the settings that name them."""

    chain: Path
    key: Path
    settings: tuple[str, str]

    @classmethod
    def named(cls, chain: Path | None, key: Path | None, settings: tuple[str, str]) -> "CertificateFiles | None":
        """Return the files that the settings name, or None if they name none.

        Raises:
            ConfigurationError: only one of the two is named.
        """
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            raise ConfigurationError(f"{' and '.join(settings)} go together; set both")
        return cls(chain=chain, key=key, settings=settings)


def make_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return the context of a port that presents this certificate, and asks clients for none.

    Raises:
        ConfigurationError: the files are no certificate chain and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.chain, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{files.chain} and {files.key} are no certificate chain and its key in PEM: {error}. "
            f"{' and '.join(files.settings)} name them"
        ) from error
    return context


class RenewedCertificate(Generic[T]):
    """What `load` returns for the files, loaded again once they change. Safe for threads."""

    def __init__(self, files: CertificateFiles, load: "Callable[[CertificateFiles], T]") -> None:
        """Read the files.

        Raises:
            ConfigurationError: they are not valid.
        """
        self._files = files
        self._load = load
        self._stamps = self._read_stamps()
        self.current = load(files)

    def renew(self) -> T | None:
        """Return the new value if the files have changed, else None; files that do not fit together change nothing."""
        stamps = self._read_stamps()
        if stamps == self._stamps:
            return None
        try:
            self.current = self._load(self._files)
        except ConfigurationError as error:
            # The other file may be written a moment later, so the next handshake looks again.
            log.error("certificate_unreadable", error=str(error))  # noqa: TRY400 - the message says all
            return None
        self._stamps = stamps
        log.info("certificate_read", path=str(self._files.chain))
        return self.current

    def _read_stamps(self) -> tuple[FileStamp, FileStamp]:
        return file_stamp(self._files.chain), file_stamp(self._files.key)


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    expires_s: float


class PortCertificate:
    """The TLS context of a port, which presents at each handshake the certificate that the files then hold."""

    def __init__(self, files: CertificateFiles, *, now_s: float) -> None:
        """Read the files.

        Raises:
            ConfigurationError: they are no certificate chain and its key, or the certificate has expired.
        """
        self._certificate = RenewedCertificate(files, _load)
        if not self.is_valid(now_s=now_s):
            expired = format_time(self._certificate.current.expires_s).decode()
            raise ConfigurationError(
                f"the certificate in {files.chain} expired at {expired}, so clients refuse it. Renew it; "
                f"{' and '.join(files.settings)} name the files"
            )
        self.context = make_context(files)
        # Called for each ClientHello, also for one that names no server.
        self.context.sni_callback = self._on_hello

    def is_valid(self, *, now_s: float) -> bool:
        """Return whether the certificate that is presented now has not expired."""
        self._certificate.renew()
        return now_s < self._certificate.current.expires_s

    def _on_hello(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        self._certificate.renew()
        connection.context = self._certificate.current.context


def _load(files: CertificateFiles) -> _Loaded:
    context = make_context(files)
    # The module has no public function that reads a file; this one serves its own tests.
    decoded: dict[str, str] = ssl._ssl._test_decode_cert(str(files.chain))  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return _Loaded(context, float(ssl.cert_time_to_seconds(decoded["notAfter"])))


def file_stamp(path: Path) -> FileStamp:
    """Return what changes when the file is written or replaced; zeros if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
