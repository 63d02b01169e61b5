"""The settings of the pods: the user's, but with a pod's addresses, ports and files in place of this machine's."""

from typing import TYPE_CHECKING

from control_plane.kubernetes.deployment_plan import (
    API_PORT,
    CA_FILE,
    CERTIFICATE_FILE,
    GRPC_PORT,
    KAFKA,
    KAFKA_CLIENT_FOLDER,
    KAFKA_FOLDER,
    KEY_FILE,
    KEYS_FILE,
    KEYS_FOLDER,
    OPS_PORT,
    STORE_FOLDER,
    STORE_PORT,
    is_own_store,
    kafka_servers,
    store_host,
)
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.redis.url import CA_OPTION, options_of, without_option

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings

# What the objects are made from, whatever listens where on this machine.
_OF_PODS: dict[str, object] = {
    "api_host": "0.0.0.0",
    "api_port": API_PORT,
    "grpc_port": GRPC_PORT,
    "api_keys_file": f"{KEYS_FOLDER}/{KEYS_FILE}",
    "ops_host": "0.0.0.0",
    "ops_port": OPS_PORT,
}


def cluster_settings(
    chosen: "Settings", *, namespace: str, store_tls: bool = False, api_tls: bool = False
) -> "Settings":
    """Complete the user's settings with those of a cluster.

    Where the user named no broker it is Strimzi's, with TLS and a user for each service.

    Raises:
        ConfigurationError: the user chose a certificate of the API and no TLS, or TLS to our store and another store.
    """
    _check_certificate(chosen, api_tls=api_tls)
    if store_tls and "redis_url" in chosen.store.model_fields_set:
        raise ConfigurationError(
            "--store-tls is for the store that is rendered, and INFERLANE_REDIS_URL names another one. Write rediss:// "
            "there instead of the option, or unset it."
        )
    kafka: dict[str, object] = {
        "kafka_bootstrap_servers": kafka_servers(namespace),
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_cafile": f"{KAFKA_FOLDER}/{CA_FILE}",
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        # Each service gets its own instead, and the password out of a Secret.
        "kafka_sasl_username": KAFKA,
        "kafka_sasl_password": KAFKA,
    }
    values: dict[str, object] = {
        **({} if "bootstrap_servers" in chosen.kafka.model_fields_set else kafka),
        "redis_url": f"{'rediss' if store_tls else 'redis'}://{store_host(namespace)}:{STORE_PORT}/0",
        "log_format": "json",
        # Said, not left to the default: the pods' grace periods are made of it.
        "drain_deadline_s": chosen.kafka.drain_deadline_s,
    }
    settings = load_settings(**(values | chosen.chosen() | _OF_PODS))
    return settings.changed(**_mounted(settings, namespace=namespace))


def _mounted(settings: "Settings", *, namespace: str) -> dict[str, object]:
    """Return where the pods have the files that connections to broker and store need; Secrets are mounted there."""
    kafka, store = settings.kafka, settings.store
    values: dict[str, object] = {}
    if kafka.ssl_cafile is not None:
        values["kafka_ssl_cafile"] = f"{KAFKA_FOLDER}/{CA_FILE}"
    if kafka.ssl_certfile is not None:
        values["kafka_ssl_certfile"] = f"{KAFKA_CLIENT_FOLDER}/{CERTIFICATE_FILE}"
        values["kafka_ssl_keyfile"] = f"{KAFKA_CLIENT_FOLDER}/{KEY_FILE}"
    with_own_authority = is_own_store(store, namespace) and store.redis_url.startswith("rediss:")
    if with_own_authority or CA_OPTION in options_of(store.redis_url):
        values["redis_ssl_cafile"] = f"{STORE_FOLDER}/{CA_FILE}"
        values["redis_url"] = without_option(store.redis_url, CA_OPTION)
    return values


def _check_certificate(chosen: "Settings", *, api_tls: bool) -> None:
    """Refuse a certificate of this machine that no pod would have: the API would be served without TLS."""
    for variable, file in (
        ("INFERLANE_API_SSL_CERTFILE", chosen.api.ssl_certfile),
        ("INFERLANE_GRPC_SSL_CERTFILE", chosen.api.grpc_ssl_certfile),
    ):
        if file is not None and not api_tls:
            raise ConfigurationError(
                f"{variable}={str(file)!r} is a file of this machine, and no pod has it. For TLS to the pods put the "
                "certificate into the Secret inferlane-api-tls and add --api-tls; otherwise unset the variable."
            )
