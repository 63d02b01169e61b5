"""The settings of a process, and the one place that reads them from the environment, but for OpenTelemetry's own.

A profile (embedded, compose, Kubernetes) is a set of these values, never a branch in the code.
"""

import os
import re
from typing import Self, cast
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from inferlane.errors import ConfigurationError
from inferlane.runtime.redis.url import parse_store_url
from inferlane.runtime.service_settings import (
    ApiSettings,
    ClientSettings,
    DashboardSettings,
    FeedbackSettings,
    OutcomeSettings,
    RolloutSettings,
    WebhookSettings,
    WorkerSettings,
)
from inferlane.runtime.setting_pairs import fit_pairs
from inferlane.runtime.settings import KafkaSettings, PortSettings, SettingsPart, StackSettings, StoreSettings

_PREFIX = "INFERLANE_"
# Secrets that only one process needs, and the API key of our own calls: they must not be in the run file.
_HELD_BACK = frozenset({"api_key", "webhook_secret", "prometheus_token"})
# A host and its port, 9092 if there is none. With anything else a client waits for ever, or ends with a traceback.
_BROKER = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_BROKER_PORT, _MAX_PORT = 9092, 65_535


class Settings(BaseModel):
    """All settings by part; the defaults suit one machine.

    Only what composes a process takes them whole (`tests/architecture` has the list); all else takes its part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: StackSettings
    ports: PortSettings
    api: ApiSettings
    client: ClientSettings
    dashboard: DashboardSettings
    kafka: KafkaSettings
    store: StoreSettings
    worker: WorkerSettings
    webhooks: WebhookSettings
    outcomes: OutcomeSettings
    feedback: FeedbackSettings
    rollouts: RolloutSettings

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Not a ValueError, which pydantic would report with every value, passwords too.
        check_broker_access(self.kafka)
        check_store_access(self.store)
        _ = self.webhooks.networks
        return self

    def chosen(self) -> dict[str, object]:
        """Return the values that are not defaults of ours, by the names that `load_settings` takes."""
        return {
            name: getattr(getattr(self, part), field)
            for name, (part, field) in _PLACES.items()
            if field in getattr(self, part).model_fields_set
        }

    def changed(self, **values: object) -> Self:
        """Return these settings with other values, by the names that `load_settings` takes; they are not checked."""
        updates: dict[str, dict[str, object]] = {}
        for name, value in values.items():
            part, field = _PLACES[name]
            updates.setdefault(part, {})[field] = value
        return self.model_copy(
            update={part: getattr(self, part).model_copy(update=update) for part, update in updates.items()}
        )

    def environment(self) -> dict[str, str]:
        """Return the chosen settings, passwords in clear, as environment variables for another process.

        Leaves out the API key of our own calls, and the secrets that only one process needs:
        they must not be in the run file.
        """
        chosen = {name: value for name, value in sorted(self.chosen().items()) if name not in _HELD_BACK}
        return {variable_of(name): _plain(value) for name, value in chosen.items() if value is not None}


def _flat_name(field: str, info: FieldInfo) -> str:
    return info.alias or field


_PARTS = {name: cast("type[SettingsPart]", info.annotation) for name, info in Settings.model_fields.items()}
# Part and field of each setting by its flat name, which is its variable's without the prefix, in lower case.
_PLACES = {
    _flat_name(field, info): (name, field) for name, part in _PARTS.items() for field, info in part.model_fields.items()
}


def setting_fields() -> dict[str, FieldInfo]:
    """Return the definition of each setting by its flat name, as in `kafka_bootstrap_servers`."""
    return {flat: _PARTS[part].model_fields[field] for flat, (part, field) in _PLACES.items()}


def variable_of(name: str) -> str:
    """Return the environment variable of the setting with that flat name."""
    return f"{_PREFIX}{name.upper()}"


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides`, by their flat names, on top.

    Raises:
        ConfigurationError: a value is out of its range; the message names the variable, the value and the limit.
    """
    given = {name.lower().removeprefix(_PREFIX.lower()): value for name, value in os.environ.items() if _is_ours(name)}
    values: dict[str, dict[str, object]] = {name: {} for name in _PARTS}
    for name, value in (given | overrides).items():
        if place := _PLACES.get(name):
            values[place[0]][name] = value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{variable_of(str(fault['loc'][1]))}={fault['input']!r}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigurationError(f"{faults}. Change or unset the variable.") from error
    settings = settings.model_copy(update={"store": _with_authority(_with_login(settings.store))})
    return settings.changed(**_followed_defaults(settings))


def _followed_defaults(settings: Settings) -> dict[str, object]:
    """Return the defaults that follow a limit below them, by the names that `load_settings` takes."""
    flat = {variable_of(name): name for name in _PLACES}
    values = {
        variable: getattr(getattr(settings, part), field)
        for variable, (part, field) in zip(flat, _PLACES.values(), strict=True)
    }
    fitted = fit_pairs(values, chosen={variable_of(name) for name in settings.chosen()})
    return {flat[variable]: value for variable, value in fitted.items()}


def check_broker_access(kafka: KafkaSettings) -> None:
    """Refuse addresses that are none, and settings of the broker's security that contradict each other.

    Raises:
        ConfigurationError: the message names the setting that is wrong, is missing or has no effect.
    """
    for server in kafka.bootstrap_servers.split(","):
        found = _BROKER.fullmatch(server.strip())
        if found is None or not 0 < int(found["port"] or _BROKER_PORT) <= _MAX_PORT:
            raise ConfigurationError(
                f"INFERLANE_KAFKA_BOOTSTRAP_SERVERS={kafka.bootstrap_servers!r}: {server.strip()!r} is no host and "
                "port. Write them without a scheme, separated by commas, as in kafka-1:9092,kafka-2:9092"
            )
    protocol = kafka.security_protocol
    tls: tuple[str, ...] = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    sasl: tuple[str, ...] = ("sasl_mechanism", "sasl_username", "sasl_password")
    unused = () if protocol.endswith("SSL") else tls
    unused += () if protocol.startswith("SASL") else sasl
    if in_vain := [_kafka_variable(name) for name in unused if getattr(kafka, name) is not None]:
        raise ConfigurationError(
            f"{', '.join(in_vain)} would not be used with INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "choose SSL, SASL_PLAINTEXT or SASL_SSL, or unset what is not used."
        )
    needed = sasl if protocol.startswith("SASL") else ()
    if kafka.ssl_keyfile is not None:
        needed += ("ssl_certfile",)
    if missing := [_kafka_variable(name) for name in needed if not getattr(kafka, name)]:
        raise ConfigurationError(
            f"{', '.join(missing)} must be set too: INFERLANE_KAFKA_SECURITY_PROTOCOL={protocol}"
            f"{', with a key' if kafka.ssl_keyfile else ''}. docs/connections.md has an example."
        )


def broker_ports(kafka: KafkaSettings) -> frozenset[int]:
    """Return the ports of the addresses of `bootstrap_servers`, which `check_broker_access` takes."""
    found = (_BROKER.fullmatch(server.strip()) for server in kafka.bootstrap_servers.split(","))
    return frozenset(int(each["port"] or _BROKER_PORT) for each in found if each is not None)


def check_store_access(store: StoreSettings) -> None:
    """Refuse a store's URL that no client can use. Never says the URL, which may hold a password.

    Raises:
        ConfigurationError: the message names what is wrong with it.
    """
    address = parse_store_url(store.redis_url)
    if store.redis_ssl_cafile is not None and not address.has_tls:
        scheme = store.redis_url.partition("://")[0]
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE would not be used: INFERLANE_REDIS_URL begins with {scheme}://. "
            "Write rediss:// (rediss+sentinel://, rediss+cluster://) for TLS, or unset the file."
        )


def _with_login(store: StoreSettings) -> StoreSettings:
    """Put user and password of the store in the URL, where redis-py reads them.

    Raises:
        ConfigurationError: the URL has others, or there is a user without a password.
    """
    if store.redis_password is None:
        if store.redis_username:
            raise ConfigurationError(
                "INFERLANE_REDIS_USERNAME would not be used: there is no INFERLANE_REDIS_PASSWORD. Set it, or put both "
                "in INFERLANE_REDIS_URL."
            )
        return store
    login = (store.redis_username, store.redis_password.get_secret_value())
    scheme, _, rest = store.redis_url.partition("://")
    held, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        quoted = ":".join(quote(part, safe="") for part in login)
        return store.model_copy(update={"redis_url": f"{scheme}://{quoted}@{rest}"})
    user, _, password = held.partition(":")
    if (unquote(user), unquote(password)) != login:
        # Another process of ours passed the URL on, with the same password in it.
        raise ConfigurationError(
            "INFERLANE_REDIS_URL has a user or password, and INFERLANE_REDIS_PASSWORD is another; keep one of them."
        )
    return store


def _with_authority(store: StoreSettings) -> StoreSettings:
    """Put the certificate authority in the URL, where redis-py reads it: then a client needs the URL only."""
    if store.redis_ssl_cafile is None or "ssl_ca_certs=" in store.redis_url:
        return store
    if not store.redis_ssl_cafile.is_file():
        raise ConfigurationError(
            f"INFERLANE_REDIS_SSL_CAFILE={str(store.redis_ssl_cafile)!r} is no file. Name a PEM file with the "
            "authority that signed the store's certificate."
        )
    joint = "&" if "?" in store.redis_url else "?"
    url = f"{store.redis_url}{joint}ssl_ca_certs={quote(str(store.redis_ssl_cafile.absolute()), safe='/')}"
    return store.model_copy(update={"redis_url": url})


def _is_ours(name: str) -> bool:
    return name.upper().startswith(_PREFIX)


def _kafka_variable(field: str) -> str:
    return variable_of(_flat_name(field, KafkaSettings.model_fields[field]))


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
