"""The certificate of a port: a chain and its key in two files, which are read again when they change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from inferlane.contracts.kafka_record import format_time
from inferlane.errors import ConfigurationError
from inferlane.runtime.logs import LastError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferlane.runtime.retry import Clock

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
        context.load_cert_chain(files.chain, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{files.chain} and {files.key} are no certificate chain and its key in PEM: {error}. "
            f"{' and '.join(files.settings)} name them"
        ) from error
    return context


def _no_passphrase() -> str:
    """Refuse an encrypted key: OpenSSL would ask for the passphrase on the terminal, which a service must not do."""
    raise ValueError("the key is encrypted, and must have no passphrase; `openssl pkey -in KEY -out NEW` decrypts it")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held(Generic[T]):
    """What was loaded. Replaced as a whole, for threads."""

    loaded: T
    starts_s: float
    expires_s: float
    stamps: tuple[FileStamp, FileStamp]


class RenewedCertificate(Generic[T]):
    """What `load` returns for the files, loaded again once they change. Safe for threads."""

    def __init__(self, files: CertificateFiles, load: "Callable[[CertificateFiles], T]", *, clock: "Clock") -> None:
        """Read the files.

        Raises:
            ConfigurationError: they do not fit together, or the certificate has expired or is not valid yet.
        """
        self._files = files
        self._load = load
        self._clock = clock
        self._error = LastError()
        held = self._held = self._read(self._read_stamps())
        if not self.is_valid():
            wrong = "expired at" if clock.now_s() >= held.expires_s else "is not valid before"
            limit = held.expires_s if clock.now_s() >= held.expires_s else held.starts_s
            raise ConfigurationError(
                f"the certificate in {files.chain} {wrong} {format_time(limit).decode()}, so clients refuse it. Renew "
                f"it, or correct the clock of this machine; {' and '.join(files.settings)} name the files"
            )

    @property
    def current(self) -> T:
        """What was loaded last."""
        return self._held.loaded

    def is_valid(self) -> bool:
        """Return whether clients accept the certificate now: it has begun to be valid, and has not expired."""
        self.renew()
        return self._held.starts_s <= self._clock.now_s() < self._held.expires_s

    def renew(self) -> None:
        """Load the files again if they have changed; files that do not fit together change nothing."""
        stamps = self._read_stamps()
        if stamps == self._held.stamps:
            return
        try:
            self._held = self._read(stamps)
        except ConfigurationError as error:
            # The other file may be written a moment later, so the next handshake looks again.
            if self._error.is_news(error):
                log.error("certificate_unreadable", error=str(error))  # noqa: TRY400 - the message says all
        else:
            self._error.clear()
            log.info("certificate_read", path=str(self._files.chain))

    def _read(self, stamps: tuple[FileStamp, FileStamp]) -> _Held[T]:
        try:
            loaded = self._load(self._files)
            # The module has no public function that reads a file; this one serves its own tests.
            decoded: dict[str, str] = ssl._ssl._test_decode_cert(str(self._files.chain))  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._files.chain} and {self._files.key} cannot be read: {error}") from error
        return _Held(
            loaded=loaded,
            starts_s=float(ssl.cert_time_to_seconds(decoded["notBefore"])),
            expires_s=float(ssl.cert_time_to_seconds(decoded["notAfter"])),
            stamps=stamps,
        )

    def _read_stamps(self) -> tuple[FileStamp, FileStamp]:
        return file_stamp(self._files.chain), file_stamp(self._files.key)


class PortCertificate(RenewedCertificate[ssl.SSLContext]):
    """The TLS context of a port, which presents at each handshake the certificate that the files then hold."""

    def __init__(self, files: CertificateFiles, *, clock: "Clock") -> None:
        """Read the files.

        Raises:
            ConfigurationError: as `RenewedCertificate`.
        """
        super().__init__(files, make_context, clock=clock)
        self.context = make_context(files)
        # Called for each ClientHello, also for one that names no server.
        self.context.sni_callback = self._on_hello

    def _on_hello(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        self.renew()
        connection.context = self.current


def file_stamp(path: Path) -> FileStamp:
    """Return what changes when the file is written or replaced; zeros if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
