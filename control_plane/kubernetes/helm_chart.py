"""The Helm chart: the documents of a plan, with what the user of a chart chooses as values.

The plan is made with stand-ins for a pool, the namespace and the image. What mentions the stand-in of a pool is
repeated for each of the user's pools; every other word of the chart is what `manifest_files` writes, and CI holds the
two against each other.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from control_plane.kubernetes.deployment_plan import DeploymentPlan, Document, GpuPlan
from control_plane.kubernetes.helm_checks import checks
from control_plane.kubernetes.helm_templates import CHART_THRESHOLDS, helpers, pool_template, template
from control_plane.kubernetes.manifest_files import (
    HEADER,
    base_documents,
    documents_of_pool,
    dumped,
    kafka_documents,
)
from control_plane.kubernetes.policies import API_REPLICAS, monitor_document
from inferlane import __version__
from inferlane.contracts.naming import Lane


def chart_files(
    plan: DeploymentPlan,
    versions: Iterable[tuple[str, str]],
    *,
    image: str,
    gpus: Mapping[tuple[str, str], GpuPlan] = MappingProxyType({}),
) -> Mapping[str, str]:
    """Return the text of every file of the chart by its path in it.

    Args:
        plan: made for `CHART_NAMESPACE`, `CHART_IMAGE` and `CHART_POOL` alone.
        versions: the `(model, version)` pairs that `values.yaml` begins with.
        image: the image that it begins with.
        gpus: what the workers of some of the versions get.
    """
    (pool,) = plan.pools
    (version,) = pool.versions
    topics = {plan.settings.stack.names.work_topic(*version, lane): lane for lane in Lane}
    thresholds = {str(topics[topic]): records for topic, records in pool.thresholds.items()}
    stand_in = replace(pool, thresholds={topic: CHART_THRESHOLDS[lane] for topic, lane in topics.items()})
    plan = replace(plan, pools=(stand_in,))
    templates = {
        name: documents for name, documents in base_documents(plan).items() if documents and name != "namespace.yaml"
    }
    templates |= {f"pool-{name}": documents for name, documents in documents_of_pool(plan, stand_in).items()}
    if plan.runs_kafka:
        templates |= {f"kafka-{name}": documents for name, documents in kafka_documents(plan).items()}
    other = base_documents(replace(plan, has_api_tls=not plan.has_api_tls))
    texts = {
        name: template(plan, stand_in, documents, other_tls=other.get(name, ()))
        for name, documents in templates.items()
    }
    monitor = template(plan, stand_in, [monitor_document(plan)]).removeprefix(HEADER)
    texts["pod-monitor.yaml"] = f"{HEADER}{{{{- if .Values.monitoring.enabled }}}}\n{monitor}{{{{- end }}}}\n"
    texts["_helpers.tpl"] = helpers(plan)
    texts["checks.yaml"] = checks(plan)
    texts["NOTES.txt"] = _NOTES
    texts["pool-deployment.yaml"] = pool_template(plan, stand_in)
    pools = [_pool_value(*pair, gpus.get(pair)) for pair in versions]
    values = _values(plan, pools, image=image, thresholds=thresholds)
    return {
        "Chart.yaml": HEADER + dumped(_CHART),
        "values.yaml": HEADER + _commented(values),
        # The choices of the overlays of the same names.
        **{f"values-{name}.yaml": HEADER + dumped(chosen) for name, chosen in _overlays(plan).items()},
        "values.schema.json": json.dumps(_schema(values), indent=2) + "\n",
        **{f"templates/{name}": text for name, text in texts.items()},
    }


_CHART = {
    "apiVersion": "v2",
    "name": "inferlane",
    "description": "Queue-based model server: Kafka in front of quantized ONNX models",
    "type": "application",
    "version": __version__,
    "appVersion": __version__,
    "kubeVersion": ">=1.30.0-0",
}


def _values(plan: DeploymentPlan, pools: list[Document], *, image: str, thresholds: Mapping[str, int]) -> Document:
    least, most = API_REPLICAS
    return {
        "image": image,
        "pools": pools,
        "lagThreshold": dict(thresholds),
        "env": {},
        "cpuRequest": "",
        "spreadOverNodes": False,
        "api": {"minReplicas": least, "maxReplicas": most, "open": False, "tls": plan.has_api_tls},
        "router": {"minReplicas": 1},
        **({"kafka": {"nodes": 1, "storage": "10Gi", "cpuRequest": "500m"}} if plan.runs_kafka else {}),
        "monitoring": {"enabled": False},
    }


def _pool_value(model: str, version: str, gpu: GpuPlan | None) -> Document:
    named: Document = {"model": model, "version": version}
    if gpu is None:
        return named
    nodes = {"nodeSelector": dict(gpu.node_selector)} if gpu.node_selector else {}
    return {**named, "gpu": {"image": gpu.image, "resource": gpu.resource, "count": gpu.count, **nodes}}


def _overlays(plan: DeploymentPlan) -> Mapping[str, Document]:
    laptop = {"nodes": 1, "storage": "2Gi", "cpuRequest": "100m"}
    production = {"nodes": 3, "storage": "200Gi"}
    return {
        "laptop": {"cpuRequest": "50m", "api": {"open": True}, **({"kafka": laptop} if plan.runs_kafka else {})},
        "production": {
            "spreadOverNodes": True,
            "api": {"minReplicas": 3},
            "router": {"minReplicas": 2},
            "monitoring": {"enabled": True},
            **({"kafka": production} if plan.runs_kafka else {}),
        },
    }


_MEANINGS = {
    "image": "The image of API, router and workers.",
    "pools": "One pool per version: model, version, and if they differ: lagThreshold, minReplicas, maxReplicas;\n"
    "# on a GPU: gpu: {image, resource, count, nodeSelector}.",
    "lagThreshold": "Records that one worker clears within the target wait, by lane (docs/scaling.md).",
    "env": "More INFERLANE_* settings for API, router and workers. What the chart sets already, and what its objects\n"
    "# are made from, is chosen when the chart is made, and refused here: INFERLANE_LOG_FORMAT, INFERLANE_PREFIX,\n"
    "# INFERLANE_DRAIN_DEADLINE_S, sizes, retention and partitions of topics, the broker, the store and the like.",
    "cpuRequest": "The CPU request of every Deployment; empty leaves each its own.",
    "spreadOverNodes": "Whether the replicas of each Deployment are spread over the nodes.",
    "api": "open: without keys, for a cluster that only this machine can reach.\n"
    "# tls: both ports with TLS, by the certificate of the Secret inferlane-api-tls.",
    "router": "Never 0: without a router no record reaches the topics that wake a pool.",
    "kafka": "Strimzi's cluster; three nodes keep every record twice when one is lost.",
    "monitoring": "A PodMonitor for the Prometheus operator.",
}


def _commented(values: Document) -> str:
    return "".join(f"# {_MEANINGS[name]}\n{dumped({name: value})}" for name, value in values.items())


def _schema(values: Document) -> Document:
    count: Document = {"type": "integer", "minimum": 0}
    thresholds = _object({str(lane): {"type": "integer", "minimum": 1} for lane in Lane})
    text: Document = {"type": "string"}
    selector = {"type": "object", "additionalProperties": text}
    gpu = {"image": text, "resource": text, "count": {**count, "minimum": 1}, "nodeSelector": selector}
    pool = {
        # As the names of models and versions are checked everywhere.
        "model": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"},
        "version": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"},
        "lagThreshold": thresholds,
        "minReplicas": count,
        "maxReplicas": {**count, "minimum": 1},
        "gpu": {**_object(gpu), "required": ["image", "resource", "count"]},
    }
    kinds: Mapping[type, Document] = {str: text, bool: {"type": "boolean"}, int: {**count, "minimum": 1}}
    parts: Document = {
        name: kinds[type(value)]
        if not isinstance(value, dict | list)
        else _object({key: kinds[type(inner)] for key, inner in value.items()})
        if isinstance(value, dict)
        else {"type": "array", "minItems": 1, "items": {**_object(pool), "required": ["model", "version"]}}
        for name, value in values.items()
    }
    parts["lagThreshold"] = thresholds
    parts["env"] = {
        "type": "object",
        "propertyNames": {"pattern": "^(INFERLANE|OTEL)_"},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }
    # Helm gives charts `global`, whether they use it or not.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_object({**parts, "global": {"type": "object"}})}


def _object(properties: Document) -> Document:
    return {"type": "object", "additionalProperties": False, "properties": properties}


_NOTES = """\
Inferlane is in the namespace {{ .Release.Namespace }}. It becomes ready once these are there:

  - the Secrets that docs/operations.md lists (`inferlane keys create`, `inferlane k8s store-secret`)
  - KEDA, and Strimzi if the chart runs Kafka

  kubectl -n {{ .Release.Namespace }} get pods,scaledobjects
  kubectl -n {{ .Release.Namespace }} port-forward service/inferlane-api 8000
"""
