"""Settings of every process: the one place that reads the environment, but for OpenTelemetry's own variables.

A profile (embedded, compose, Kubernetes) is a set of these values, never a branch in the code.
"""

from typing import Self
from urllib.parse import quote, unquote

from pydantic import SecretStr, ValidationError, model_validator

from inferlane.contracts.outcome_token import OutcomeTokens
from inferlane.errors import ConfigurationError
from inferlane.runtime.redis.url import parse_store_url
from inferlane.runtime.settings import (
    ApiSettings,
    DashboardSettings,
    FeedbackSettings,
    KafkaSettings,
    OutcomeSettings,
    RolloutSettings,
    StoreSettings,
    WebhookSettings,
    WorkerSettings,
)


class Settings(
    ApiSettings,
    DashboardSettings,
    KafkaSettings,
    StoreSettings,
    WorkerSettings,
    WebhookSettings,
    OutcomeSettings,
    FeedbackSettings,
    RolloutSettings,
):
    """All settings, each from `INFERLANE_<NAME>`; the defaults suit one machine."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Not a ValueError, which pydantic would report with every value, passwords too.
        check_broker_access(self)
        check_store_access(self)
        _ = self.webhook_networks
        return self

    @property
    def outcome_tokens(self) -> OutcomeTokens | None:
        """What signs and reads outcome tokens; None without a secret."""
        return None if self.feedback_secret is None else OutcomeTokens.of(self.feedback_secret.get_secret_value())

    def environment(self) -> dict[str, str]:
        """Return the chosen settings, passwords in clear, as environment variables for another process.

        Leaves out the API key of our own calls, and the secrets that only one process needs:
        they must not be in the run file.
        """
        held_back = {"api_key", "webhook_secret", "prometheus_token"}
        chosen = {name: getattr(self, name) for name in sorted(self.model_fields_set - held_back)}
        return {f"INFERLANE_{name.upper()}": _plain(value) for name, value in chosen.items() if value is not None}


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides` on top.

    Raises:
        ConfigurationError: a value is out of its range; the message names the variable, the value and the limit.
    """
    try:
        return _with_authority(_with_login(Settings(**overrides)))  # type: ignore[arg-type]  # pydantic checks each value
    except ValidationError as error:
        faults = "; ".join(
            f"INFERLANE_{'_'.join(str(part) for part in fault['loc']).upper()}={fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Change or unset the variable.") from error


def check_broker_access(settings: KafkaSettings) -> None:
    """Refuse settings of the broker's security that contradict each other.

    Raises:
        ConfigurationError: the message names the setting that is missing or has no effect.
    """
    protocol = settings.kafka_security_protocol
    tls: tuple[str, ...] = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
    sasl: tuple[str, ...] = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
    unused = () if protocol.endswith("SSL") else tls
    unused += () if protocol.startswith("SASL") else sasl
    if in_vain := [_variable(name) for name in unused if getattr(settings, name) is not None]:
        raise ConfigurationError(
            f"{', '.join(in_vain)} would not be used with INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "choose SSL, SASL_PLAINTEXT or SASL_SSL, or unset what is not used."
        )
    needed = sasl if protocol.startswith("SASL") else ()
    if settings.kafka_ssl_keyfile is not None:
        needed += ("kafka_ssl_certfile",)
    if missing := [_variable(name) for name in needed if not getattr(settings, name)]:
        raise ConfigurationError(
            f"{', '.join(missing)} must be set too: INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}"
            f"{', with a key' if settings.kafka_ssl_keyfile else ''}. docs/connections.md has an example."
        )


def check_store_access(settings: StoreSettings) -> None:
    """Refuse a store's URL that no client can use. Never says the URL, which may hold a password.

    Raises:
        ConfigurationError: the message names what is wrong with it.
    """
    address = parse_store_url(settings.redis_url)
    if settings.redis_ssl_cafile is not None and not address.has_tls:
        scheme = settings.redis_url.partition("://")[0]
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE would not be used: INFERLANE_REDIS_URL begins with {scheme}://. "
            "Write rediss:// (rediss+sentinel://, rediss+cluster://) for TLS, or unset the file."
        )


def _with_login(settings: Settings) -> Settings:
    """Put user and password of the store in the URL, where redis-py reads them.

    Raises:
        ConfigurationError: the URL has others, or there is a user without a password.
    """
    if settings.redis_password is None:
        if settings.redis_username:
            raise ConfigurationError(
                "INFERLANE_REDIS_USERNAME would not be used: there is no INFERLANE_REDIS_PASSWORD. Set it, or put both "
                "in INFERLANE_REDIS_URL."
            )
        return settings
    login = (settings.redis_username, settings.redis_password.get_secret_value())
    scheme, _, rest = settings.redis_url.partition("://")
    held, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        quoted = ":".join(quote(part, safe="") for part in login)
        return settings.model_copy(update={"redis_url": f"{scheme}://{quoted}@{rest}"})
    user, _, password = held.partition(":")
    if (unquote(user), unquote(password)) != login:
        # Another process of ours passed the URL on, with the same password in it.
        raise ConfigurationError(
            "INFERLANE_REDIS_URL has a user or password, and INFERLANE_REDIS_PASSWORD is another; keep one of them."
        )
    return settings


def _with_authority(settings: Settings) -> Settings:
    """Put the certificate authority in the URL, where redis-py reads it: then a client needs the URL only."""
    if settings.redis_ssl_cafile is None or "ssl_ca_certs=" in settings.redis_url:
        return settings
    if not settings.redis_ssl_cafile.is_file():
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE={str(settings.redis_ssl_cafile)!r} is no file. Name a PEM file with the "
            "authority that signed the store's certificate."
        )
    joint = "&" if "?" in settings.redis_url else "?"
    url = f"{settings.redis_url}{joint}ssl_ca_certs={quote(str(settings.redis_ssl_cafile), safe='/')}"
    return settings.model_copy(update={"redis_url": url})


def _variable(name: str) -> str:
    return f"INFERLANE_{name.upper()}"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
