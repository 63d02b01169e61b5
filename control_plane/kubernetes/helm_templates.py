"""Templates of the Helm chart: a document of the plan, with stand-ins and marks turned into what Helm replaces."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from control_plane.kubernetes.deployment_plan import DeploymentPlan, Document, GpuPlan, PoolPlan, object_name
from control_plane.kubernetes.manifest_files import HEADER, dumped, spread
from control_plane.kubernetes.pod_spec import KEYS_VARIABLE, KEYS_VOLUME
from control_plane.kubernetes.workloads import pool_documents
from inferlane.contracts.naming import Lane

CHART_NAMESPACE, CHART_IMAGE = "namespace-stand-in", "image-stand-in"
# Capitals and an underscore: what Kubernetes' names make of them differs from what topics and arguments say.
CHART_POOL = ("Model_stand_in", "Version_stand_in")
CHART_THRESHOLDS = {Lane.REQUESTS: 987_654_321, Lane.BULK: 987_654_322}
_GPUS, _NODE_SELECTOR = 987_654_323, "node-selector-stand-in"
# Helm reads each number of the values as a float64, and writes a million as 1e+06: `int64` and `toJson` do not.
_AS_TEXT = 'ternary $value (toJson $value) (kindIs "string" $value) | quote'
# A text that begins so is an expression of the template, or a line of its own that directs it.
_EXPRESSION, _LINE = "@@expression ", "@@line "
_NODES = "(int $.Values.kafka.nodes)"
_IN_SYNC = f"max 1 (sub {_NODES} 1)"
_REPLICATION = ("default.replication.factor", "offsets.topic.replication.factor")
_TRANSACTION_LOG = ("transaction.state.log.replication.factor", "transaction.state.log.min.isr")


def template(
    plan: DeploymentPlan, pool: PoolPlan, documents: Iterable[Document], *, other_tls: Iterable[Document] = ()
) -> str:
    """Return the documents as a template. Those of the pool are repeated, and so are items of lists that mention it.

    `other_tls` are the same documents where the API has TLS, if it has none in `documents`, or the other way round.
    """
    parts = []
    for each, other in zip_longest(documents, other_tls):
        if other is not None and other != each:
            with_tls, without = (each, other) if plan.has_api_tls else (other, each)
            one, two = (_text(pool, _with_choices(variant, plan)) for variant in (with_tls, without))
            parts.append(f"{{{{- if $.Values.api.tls }}}}\n---\n{one}{{{{- else }}}}\n---\n{two}{{{{- end }}}}\n")
            continue
        content = _with_choices(each, plan)
        if _mentions_pool(each["metadata"]["name"]):
            parts.append(f"{{{{- range $.Values.pools }}}}\n---\n{_text(pool, content)}{{{{- end }}}}\n")
        else:
            parts.append(f"---\n{_text(pool, _with_repeated_items(content))}")
    return HEADER + "".join(parts)


def pool_template(plan: DeploymentPlan, pool: PoolPlan) -> str:
    """Return the pool's Deployment, on the CPU or on GPUs as its value says, and its disruption budget."""
    gpu = GpuPlan(
        image=_expression(".gpu.image | quote"),
        count=_GPUS,
        resource=_expression(".gpu.resource"),
        node_selector={_NODE_SELECTOR: ""},
    )
    on_cpu, budget = pool_documents(plan, pool)
    on_gpu, _ = pool_documents(plan, replace(pool, gpu=gpu))
    one, other, same = (_text(pool, _with_choices(each, plan)) for each in (on_gpu, on_cpu, budget))
    deployment = f"{{{{- if .gpu }}}}\n{one}{{{{- else }}}}\n{other}{{{{- end }}}}\n"
    return f"{HEADER}{{{{- range $.Values.pools }}}}\n---\n{deployment}---\n{same}{{{{- end }}}}\n"


def _with_choices(document: Document, plan: DeploymentPlan) -> Document:
    """Return the document with an expression wherever a value of the chart has its say."""
    changed: Document = json.loads(json.dumps(document))
    if change := _CHANGES.get(changed["kind"]):
        change(changed["spec"], plan)
    if changed["kind"] == "ScaledObject" and _mentions_pool(changed["metadata"]["name"]):
        changed["spec"]["minReplicaCount"] = _expression('dig "minReplicas" 0 . | int64')
        most = changed["spec"]["maxReplicaCount"]
        changed["spec"]["maxReplicaCount"] = _expression(f'dig "maxReplicas" {most} . | int64')
    elif changed["kind"] == "ScaledObject":
        changed["spec"]["minReplicaCount"] = _expression("$.Values.router.minReplicas | int64")
    return changed


def _deployment(spec: Document, _: DeploymentPlan) -> None:
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    requests = container["resources"]["requests"]
    requests["cpu"] = _expression(f'$.Values.cpuRequest | default "{requests["cpu"]}" | quote')
    with_keys = [
        _only_if("not $.Values.api.open", item) if item["name"] == KEYS_VARIABLE else [item]
        for item in container["env"]
    ]
    container["env"] = [item for items in with_keys for item in items]
    if any(volume["name"] == KEYS_VOLUME for volume in pod["volumes"]):
        opened = {"name": "INFERLANE_API_AUTH", "value": "off"}
        container["env"] += _only_if("$.Values.api.open", opened)
        for holder, name in ((container, "volumeMounts"), (pod, "volumes")):
            holder[name] = [
                item
                for each in holder[name]
                for item in (_only_if("not $.Values.api.open", each) if each["name"] == KEYS_VOLUME else [each])
            ]
    more = {"name": _expression("$name"), "value": _expression(_AS_TEXT)}
    container["env"] += [f"{_LINE}{{{{- range $name, $value := $.Values.env }}}}", more, f"{_LINE}{{{{- end }}}}"]
    if pod.get("nodeSelector"):
        del pod["nodeSelector"]
        pod[f"{_LINE}{{{{- with .gpu.nodeSelector }}}}"] = None
        pod["nodeSelector"] = _expression("toJson .")
        # Another key than that of the end below.
        pod[f"{_LINE}{{{{- end}}}}"] = None
    pod[f"{_LINE}{{{{- if $.Values.spreadOverNodes }}}}"] = None
    pod |= spread()
    pod[f"{_LINE}{{{{- end }}}}"] = None


def _autoscaler(spec: Document, _: DeploymentPlan) -> None:
    spec |= {key: _expression(f"$.Values.api.{key} | int64") for key in ("minReplicas", "maxReplicas")}


def _cluster(spec: Document, _: DeploymentPlan) -> None:
    config = spec["kafka"]["config"]
    config |= {key: _expression(_NODES) for key in (*_REPLICATION, _TRANSACTION_LOG[0])}
    config |= {key: _expression(_IN_SYNC) for key in ("min.insync.replicas", _TRANSACTION_LOG[1])}


def _nodes(spec: Document, _: DeploymentPlan) -> None:
    spec["replicas"] = _expression(_NODES)
    spec["storage"]["volumes"][0]["size"] = _expression("$.Values.kafka.storage | quote")
    spec["resources"]["requests"]["cpu"] = _expression("$.Values.kafka.cpuRequest | quote")


def _topic(spec: Document, _: DeploymentPlan) -> None:
    spec["replicas"] = _expression(_NODES)
    spec["config"][f"{_LINE}{{{{- if gt {_NODES} 1 }}}}"] = None
    spec["config"]["min.insync.replicas"] = _expression(_IN_SYNC)
    spec["config"][f"{_LINE}{{{{- end }}}}"] = None


_CHANGES: Mapping[str, Callable[[Document, DeploymentPlan], None]] = {
    "Deployment": _deployment,
    "HorizontalPodAutoscaler": _autoscaler,
    "Kafka": _cluster,
    "KafkaNodePool": _nodes,
    "KafkaTopic": _topic,
}


def _expression(text: str) -> str:
    return f"{_EXPRESSION}{{{{ {text} }}}}"


def _only_if(condition: str, item: Document) -> list[Any]:
    return [f"{_LINE}{{{{- if {condition} }}}}", item, f"{_LINE}{{{{- end }}}}"]


def _mentions_pool(content: object) -> bool:
    text = json.dumps(content)
    return any(name in text for part in CHART_POOL for name in (part, object_name(part)))


def _with_repeated_items(content: Any) -> Any:
    """Return the content, in which each run of items that mention the pool is inside of a loop over the pools."""
    if isinstance(content, dict):
        return {key: _with_repeated_items(value) for key, value in content.items()}
    if not isinstance(content, list):
        return content
    items: list[Any] = []
    is_inside = False
    for item in content:
        mentions = _mentions_pool(item)
        if mentions != is_inside:
            items.append(f"{_LINE}{{{{- {'range $.Values.pools' if mentions else 'end'} }}}}")
        items.append(item if mentions else _with_repeated_items(item))
        is_inside = mentions
    return [*items, f"{_LINE}{{{{- end }}}}"] if is_inside else items


def _text(pool: PoolPlan, content: Document) -> str:
    """Return the YAML of a document with its marks and stand-ins as what Helm replaces."""
    text = dumped(content, width=float("inf"))
    # A mark is quoted by YAML, as a text or as a key without a value.
    text = re.sub(rf"(?m)^ *(?:- )?'{_LINE}(.*?)'(?:: null)?$", _unquoted, text)
    text = re.sub(rf"'{_EXPRESSION}(.*?)'", _unquoted, text)
    text = text.replace(f"'{_GPUS}'", "{{ .gpu.count | int64 | quote }}")
    for lane, number in CHART_THRESHOLDS.items():
        lookup = f'dig "lagThreshold" "{lane}" $.Values.lagThreshold.{lane} .'
        text = text.replace(f"'{number}'", f"{{{{ {lookup} | int64 | quote }}}}")
    model, version = CHART_POOL
    whole = {
        CHART_NAMESPACE: "$.Release.Namespace",
        CHART_IMAGE: "$.Values.image",
        model: ".model",
        version: ".version",
    }
    for name, value in whole.items():
        text = re.sub(rf"(?m)(: |- ){name}$", rf"\1{{{{ {value} | quote }}}}", text)
    for name, value in (
        (pool.name, 'include "inferlane.poolName" .'),
        (pool.instance, 'include "inferlane.poolInstance" .'),
        (CHART_NAMESPACE, "$.Release.Namespace"),
        (model, ".model"),
        (version, ".version"),
        # In the names of objects.
        (object_name(model), 'include "inferlane.objectName" .model'),
        (object_name(version), 'include "inferlane.objectName" .version'),
    ):
        text = text.replace(name, f"{{{{ {value} }}}}")
    return text


def _unquoted(found: re.Match[str]) -> str:
    return found.group(1).replace("''", "'")


def helpers(plan: DeploymentPlan) -> str:
    """Return the template's functions: names as Kubernetes spells them."""
    return f"""\
{{{{- /* Names as control_plane/kubernetes/deployment_plan.py makes them; CI compares. */ -}}}}
{{{{- define "inferlane.objectName" -}}}}
{{{{- regexReplaceAll "[^a-z0-9.-]" (lower .) "-" -}}}}
{{{{- end -}}}}

{{{{- define "inferlane.withinLabel" -}}}}
{{{{- if le (len .name) 63 -}}}}
{{{{- .name -}}}}
{{{{- else -}}}}
{{{{- printf "%s-%s" (regexReplaceAll "[-._]+$" (trunc 52 .name) "") (trunc 10 (sha256sum .of)) -}}}}
{{{{- end -}}}}
{{{{- end -}}}}

{{{{- define "inferlane.poolName" -}}}}
{{{{- $kept := ternary .version (printf "%s-%s" .model .version) (eq .model "{plan.settings.stack.default_model}") -}}}}
{{{{- $name := include "inferlane.objectName" (printf "inference-service-%s" $kept) | replace "." "-" -}}}}
{{{{- include "inferlane.withinLabel" (dict "name" $name "of" (printf "%s/%s" .model .version)) -}}}}
{{{{- end -}}}}

{{{{- define "inferlane.poolInstance" -}}}}
{{{{- $name := printf "worker-%s-%s" .model .version -}}}}
{{{{- include "inferlane.withinLabel" (dict "name" $name "of" (printf "%s/%s" .model .version)) -}}}}
{{{{- end -}}}}
"""
