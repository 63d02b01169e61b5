"""The Deployments: API, router, a pool a version; with their Service and disruption budgets."""

from control_plane.broker_rights import Service
from control_plane.kubernetes.names import API, Document, document, labels, within_label
from control_plane.kubernetes.plan import API_PORT, OPS_PORT, Plan, PoolPlan
from control_plane.kubernetes.pods import pod_spec, resources, shell_spec

# A pod that is replaced stops its whole group for a moment: one at a time, the new one ready first.
_ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


_SHELL_S = 3600


def pool_instance(pool: PoolPlan) -> str:
    """The pool's name in labels and dashboards, the same as on the local stack."""
    return within_label(f"worker-{pool.model}-{pool.version}", of=f"{pool.model}/{pool.version}")


def pool_documents(plan: Plan, pool: PoolPlan) -> list[Document]:
    """Return a version's Deployment and disruption budget."""
    args = ["worker", "--model", pool.model, "--version", pool.version]
    pod = pod_spec(
        plan,
        component="worker",
        args=args,
        resources=resources(cpu="500m", memory="256Mi", memory_limit="1Gi"),
        port=("ops", OPS_PORT),
    )
    return _workload(plan, pool.name, labels("worker", pool_instance(pool)), pod)


def router_documents(plan: Plan) -> list[Document]:
    """Return the router's Deployment and disruption budget."""
    pod = pod_spec(
        plan,
        component="router",
        args=["router"],
        resources=resources(cpu="250m", memory="256Mi", memory_limit="768Mi"),
        port=("ops", OPS_PORT),
    )
    return _workload(plan, "inferlane-router", labels("router", "router"), pod)


def api_documents(plan: Plan) -> list[Document]:
    """Return the API's Deployment, disruption budget and Service."""
    selector = labels("api", "api")
    pod = pod_spec(
        plan,
        component="api",
        args=["api"],
        resources=resources(cpu="500m", memory="256Mi", memory_limit="1Gi"),
        port=("http", API_PORT),
    )
    service = document(
        "v1",
        "Service",
        {"name": API, "namespace": plan.namespace, "labels": selector},
        spec={"selector": selector, "ports": [{"name": "http", "port": API_PORT, "targetPort": "http"}]},
    )
    return [*_workload(plan, API, selector, pod), service]


def _workload(plan: Plan, name: str, selector: dict[str, str], pod: Document) -> list[Document]:
    metadata = {"name": name, "namespace": plan.namespace, "labels": selector}
    # No replicas: an apply would set the size that the autoscaler has just changed.
    deployment = document(
        "apps/v1",
        "Deployment",
        metadata,
        spec={
            "selector": {"matchLabels": selector},
            "strategy": _ROLLING,
            "revisionHistoryLimit": 5,
            "template": {"metadata": {"labels": selector}, "spec": pod},
        },
    )
    # A share, not a number left: a pool of one can be moved, for the records wait.
    budget = document(
        "policy/v1",
        "PodDisruptionBudget",
        metadata,
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
    return [deployment, budget]


def operator_documents(plan: Plan) -> list[Document]:
    """Return a Job in which an operator calls the CLI; it waits for an hour, then goes by itself."""
    selector = labels(Service.OPERATOR.value, Service.OPERATOR.value)
    size = resources(cpu="50m", memory="128Mi", memory_limit="512Mi")
    pod = shell_spec(plan, component=Service.OPERATOR.value, resources=size)
    (container,) = pod["containers"]
    container["command"] = ["tini", "--", "sleep", str(_SHELL_S)]
    container["env"].append({"name": "INFERLANE_API_URL", "value": f"http://{API}.{plan.namespace}.svc:{API_PORT}"})
    container["env"].append({"name": "INFERLANE_STATE_DIR", "value": "/tmp"})  # noqa: S108 - the pod's own
    job = document(
        "batch/v1",
        "Job",
        {"name": "inferlane-operator", "namespace": plan.namespace, "labels": selector},
        spec={
            "backoffLimit": 0,
            "activeDeadlineSeconds": _SHELL_S,
            "ttlSecondsAfterFinished": 60,
            "template": {"metadata": {"labels": selector}, "spec": {**pod, "restartPolicy": "Never"}},
        },
    )
    return [job]
