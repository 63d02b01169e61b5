"""The chart's template that refuses what no schema can: values that contradict each other, or the chart."""

import json
from typing import TYPE_CHECKING

from control_plane.broker_acls import Service
from control_plane.kubernetes.deployment_plan import DeploymentPlan
from control_plane.kubernetes.manifest_files import HEADER
from control_plane.kubernetes.pod_spec import environment
from inferlane.runtime.config import setting_fields, variable_of

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names of objects, topics and users, ports, policies, grace periods and mounted files are made from these.
_MADE_FROM = frozenset(
    {
        "INFERLANE_DEFAULT_MODEL",
        "INFERLANE_DRAIN_DEADLINE_S",
        "INFERLANE_INGRESS_PARTITIONS",
        "INFERLANE_MAX_BODY_BYTES",
        "INFERLANE_MAX_RESULT_BYTES",
        "INFERLANE_PREFIX",
        "INFERLANE_REQUEST_RETENTION_S",
        "INFERLANE_WEBHOOKS",
        "INFERLANE_WEBHOOK_ALLOWED_NETWORKS",
        "INFERLANE_WEBHOOK_SECRET",
        "INFERLANE_WORK_PARTITIONS",
    }
)
_MADE_FROM_PREFIXES = (
    "INFERLANE_API_HOST",
    "INFERLANE_API_KEYS_FILE",
    "INFERLANE_API_PORT",
    "INFERLANE_API_SSL_",
    "INFERLANE_GRPC_",
    "INFERLANE_KAFKA_BOOTSTRAP_SERVERS",
    "INFERLANE_KAFKA_S",
    "INFERLANE_OPS_",
    "INFERLANE_PROMETHEUS_",
    "INFERLANE_REDIS_",
)
_SERVICES = (Service.API, Service.ROUTER, Service.WORKER, Service.WEBHOOKS)


def taken_names(plan: DeploymentPlan) -> list[str]:
    """Return the settings that are chosen when the chart is made: what it sets already, and what it is made from."""
    known = map(variable_of, setting_fields())
    in_pods = (entry["name"] for service in _SERVICES for entry in environment(plan, service))
    return sorted({*in_pods, *_MADE_FROM, *(name for name in known if name.startswith(_MADE_FROM_PREFIXES))})


def checks(plan: DeploymentPlan) -> str:
    """Return the template; it makes no object."""
    settings = plan.settings.kafka
    taken = " ".join(map(json.dumps, taken_names(plan)))
    pool = f'(dig "minReplicas" 0 .) (dig "maxReplicas" {settings.work_partitions} .)'
    lines = [
        f"{{{{- $taken := list {taken} }}}}",
        "{{- range $name, $_ := $.Values.env }}",
        '{{- if eq $name "INFERLANE_API_AUTH" }}',
        _fail("env.%s is chosen by another value: set api.open to true for an API without keys", "$name"),
        "{{- end }}",
        "{{- if has $name $taken }}",
        _fail(
            "env.%s is chosen when the chart is made: set it there, as in %s=... inferlane k8s render --helm, and take "
            "it out of env",
            "$name $name",
        ),
        "{{- end }}",
        "{{- end }}",
        "{{- $pools := dict }}",
        "{{- range $.Values.pools }}",
        '{{- $name := include "inferlane.poolName" . }}',
        '{{- $version := printf "%s/%s" .model .version }}',
        "{{- if hasKey $pools $name }}",
        _fail(
            "the pools of %s and %s would both be called %s on the cluster. Name each version once, and rename one of "
            "two versions",
            "(get $pools $name) $version $name",
        ),
        "{{- end }}",
        "{{- $_ := set $pools $name $version }}",
        *_bounds('(printf "of the pool %s" $version)', pool),
        "{{- end }}",
        *_bounds('"of the api"', "$.Values.api.minReplicas $.Values.api.maxReplicas"),
        *_bounds('"of the router"', f"$.Values.router.minReplicas {settings.ingress_partitions}"),
    ]
    return HEADER + "\n".join(lines) + "\n"


def _fail(sentence: str, arguments: str) -> str:
    return f'{{{{- fail (printf "{sentence}" {arguments}) }}}}'


def _bounds(whose: str, numbers: str) -> "Iterable[str]":
    """Yield the lines that refuse a minimum above the maximum."""
    yield f"{{{{- $bounds := list {numbers} }}}}"
    yield "{{- if gt (index $bounds 0 | int64) (index $bounds 1 | int64) }}"
    yield _fail(
        "minReplicas %d %s is above the maximum of %d replicas: lower it, or raise the maximum",
        f"(index $bounds 0 | int64) {whose} (index $bounds 1 | int64)",
    )
    yield "{{- end }}"
