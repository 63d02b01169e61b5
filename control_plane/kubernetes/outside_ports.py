"""The network policies' ways out to a store and a Prometheus that run elsewhere."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from control_plane.kubernetes.deployment_plan import MONITORING_NAMESPACE, STORE_PORT, Document
from inferlane.runtime.redis.url import StoreKind, parse_store_url

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import RolloutSettings
    from inferlane.runtime.settings import StoreSettings

_PORTS = {"http": 80, "https": 443}


def store_ports(store: "StoreSettings") -> frozenset[int]:
    """Return the ports of an external store; its address is unknown, so only the port is restricted.

    Sentinels name a master that is not in the URL: it is looked for at the usual port.
    """
    address = parse_store_url(store.redis_url)
    named = {port for _, port in address.hosts}
    return frozenset(named | {STORE_PORT} if address.kind is StoreKind.SENTINEL or not named else named)


def prometheus_rules(settings: "RolloutSettings") -> list[Document]:
    """Return the egress rules to the server of `INFERLANE_PROMETHEUS_URL`; none where no server is asked.

    A policy sees the port of a pod, which need not be that of the service in the URL: to a service of the cluster every
    port is allowed, and to a server outside it, whose address is unknown, the port of the URL.
    """
    if not settings.prometheus_url:
        return []
    url = urlsplit(settings.prometheus_url)
    host = url.hostname or ""
    _, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    if not rest and not _is_address(host):
        return [{"to": [{"podSelector": {}}]}]
    if rest == MONITORING_NAMESPACE or domain.split(".")[0] == "svc":
        return [{"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]}]
    return [{"ports": [{"protocol": "TCP", "port": url.port or _PORTS[url.scheme]}]}]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
