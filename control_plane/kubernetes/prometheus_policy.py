"""The network policy by which the router reaches the Prometheus that the check `prometheus` of a rollout asks."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from control_plane.kubernetes.deployment_plan import MONITORING_NAMESPACE, Document

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import RolloutSettings

_PORTS = {"http": 80, "https": 443}


def prometheus_rules(settings: "RolloutSettings") -> list[Document]:
    """Return the egress rules to the server of `INFERLANE_PROMETHEUS_URL`; none where no server is asked.

    A policy sees the port of a pod, which need not be that of the service in the URL: to a service of the cluster every
    port is allowed, and to a server outside it, whose address is unknown, the port of the URL.
    """
    if not settings.prometheus_url:
        return []
    url = urlsplit(settings.prometheus_url)
    _, _, rest = (url.hostname or "").partition(".")
    namespace, _, domain = rest.partition(".")
    if not rest:
        return [{"to": [{"podSelector": {}}]}]
    if rest == MONITORING_NAMESPACE or domain.split(".")[0] == "svc":
        return [{"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]}]
    return [{"ports": [{"protocol": "TCP", "port": url.port or _PORTS[url.scheme]}]}]
