"""How every client gets in to the broker: one place for addresses, TLS and passwords."""

import ssl
from typing import TYPE_CHECKING, Literal, TypedDict

from inferlane.errors import ConfigurationError

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

_ENCRYPTED = ("SSL", "SASL_SSL")


class ClientArguments(TypedDict):
    """The arguments that each client of aiokafka (producer, consumer, admin, bare client) takes."""

    bootstrap_servers: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    ssl_context: ssl.SSLContext | None
    sasl_mechanism: str
    sasl_plain_username: str | None
    sasl_plain_password: str | None


def client_arguments(settings: "Settings") -> ClientArguments:
    """Where to connect and how. Holds the password: never log it.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    password = settings.kafka_sasl_password
    return ClientArguments(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        security_protocol=settings.kafka_security_protocol,
        ssl_context=tls_context(settings),
        sasl_mechanism=settings.kafka_sasl_mechanism or "PLAIN",
        sasl_plain_username=settings.kafka_sasl_username,
        sasl_plain_password=None if password is None else password.get_secret_value(),
    )


def tls_context(settings: "Settings") -> ssl.SSLContext | None:
    """The TLS context that the settings ask for, which checks the broker's name; None without TLS.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    if settings.kafka_security_protocol not in _ENCRYPTED:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    except OSError as error:
        raise ConfigurationError(
            f"INFERLANE_KAFKA_SSL_CAFILE={str(settings.kafka_ssl_cafile)!r} holds no certificates: {error}. "
            "Name a PEM file with the authority that signed the broker's certificate."
        ) from error
    if settings.kafka_ssl_certfile is not None:
        try:
            context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"INFERLANE_KAFKA_SSL_CERTFILE={str(settings.kafka_ssl_certfile)!r} with "
                f"INFERLANE_KAFKA_SSL_KEYFILE={str(settings.kafka_ssl_keyfile)!r} is no certificate with its key: "
                f"{error}. Name PEM files; the key has no passphrase, and may be in the certificate's file."
            ) from error
    return context


def _no_password() -> str:
    """OpenSSL asks on the terminal where none is given, which a service must never do."""
    raise ValueError("the key has a passphrase")
