"""The address of the API for our own commands and pages, and the certificate that they trust."""

import ssl
from typing import TYPE_CHECKING

from inferlane.errors import ConfigurationError
from inferlane.runtime.http.certificate import file_stamp
from inferlane.runtime.runfile import base_url

if TYPE_CHECKING:
    from pathlib import Path

    from inferlane.runtime.service_settings import ApiSettings, ClientSettings


class ApiAddress:
    """The URL of the API, and the authorities that a TLS connection to it trusts.

    Without a URL in the settings it is the API of this machine, whose certificate the settings name too: then exactly
    that certificate is trusted, whatever host it is for.
    """

    def __init__(self, api: "ApiSettings", client: "ClientSettings", url: str = "") -> None:
        """`url` is preferred to that of the settings."""
        has_tls = api.ssl_certfile is not None
        chosen = url or client.url
        self.url = chosen.rstrip("/") or base_url(api.host, api.port, tls=has_tls)
        self._authority = client.ssl_cafile
        self._own = None if chosen else api.ssl_certfile
        self._held: tuple[object, ssl.SSLContext] | None = None

    @classmethod
    def of_this_machine(cls, api: "ApiSettings", client: "ClientSettings") -> "ApiAddress":
        """Return the address of the API that the settings start, whatever URL others reach it at."""
        return cls(api, client.model_copy(update={"url": ""}))

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of a connection; None without TLS. A renewed file is read again.

        Raises:
            ConfigurationError: the file of INFERLANE_API_SSL_CAFILE, or our own certificate, cannot be read.
        """
        if not self.url.startswith("https://"):
            return None
        trusted = self._authority or self._own
        stamp = None if trusted is None else file_stamp(trusted)
        if self._held is None or self._held[0] != stamp:
            self._held = stamp, self._context(trusted)
        return self._held[1]

    def _context(self, trusted: "Path | None") -> ssl.SSLContext:
        context = ssl.create_default_context() if trusted is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if trusted is None:
            return context
        try:
            context.load_verify_locations(trusted)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"{trusted} holds no certificate in PEM: {error}. INFERLANE_API_SSL_CAFILE names the authority of the "
                "API's certificate"
            ) from error
        if self._authority is None:
            # The certificate itself is trusted, not its issuer: only the holder of its key can present it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.check_hostname = False
        return context
