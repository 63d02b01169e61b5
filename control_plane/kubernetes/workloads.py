"""The Deployments of API, router and one pool per version, with their Service and disruption budgets."""

from itertools import chain

from control_plane.broker_acls import Service
from control_plane.kubernetes.deployment_plan import (
    API,
    API_PORT,
    CA_FILE,
    GRPC_PORT,
    OPS_PORT,
    DeploymentPlan,
    Document,
    GpuPlan,
    PoolPlan,
    document,
    labels,
)
from control_plane.kubernetes.pod_spec import (
    API_TLS_FOLDER,
    API_TLS_SECRET,
    mount_secret,
    pod_spec,
    resources,
    secret_value,
    shell_spec,
)

# A pod that is replaced stops its whole group for a moment: one at a time, the new one ready first.
_ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}

# Two pods of a shared pool would both infer every record.
_ONE_AT_A_TIME = {"type": "Recreate"}


_SHELL_S = 3600


def pool_documents(plan: DeploymentPlan, pool: PoolPlan) -> list[Document]:
    """Return a pool's Deployment and disruption budget."""
    pod = pod_spec(
        plan,
        component="worker",
        args=_worker_args(pool),
        resources=resources(cpu="500m", memory="256Mi", memory_limit="1Gi"),
        port=("ops", OPS_PORT),
    )
    if pool.gpu is not None:
        _put_on_gpu(pod, pool.gpu)
    strategy = _ONE_AT_A_TIME if pool.is_shared else _ROLLING
    return workload(plan, pool.name, labels("worker", pool.instance), pod, strategy=strategy)


def _worker_args(pool: PoolPlan) -> list[str]:
    if pool.is_shared:
        return ["worker", *chain.from_iterable(("--model", "/".join(version)) for version in pool.versions)]
    ((model, version),) = pool.versions
    return ["worker", "--model", model, "--version", version]


# CUDA's own libraries are loaded into the process, and each size of a batch runs once before it is ready.
_GPU_MEMORY, _GPU_START_FAILURES = "4Gi", 300


def _put_on_gpu(pod: Document, gpu: GpuPlan) -> None:
    (container,) = pod["containers"]
    container["image"] = gpu.image
    # A limit is the request, too, and no GPU can be shared by a request of less.
    container["resources"]["limits"] = {"memory": _GPU_MEMORY, gpu.resource: str(gpu.count)}
    container["startupProbe"] |= {"failureThreshold": _GPU_START_FAILURES}
    # Clouds keep other pods away from nodes with a GPU by this taint.
    pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if gpu.node_selector:
        pod["nodeSelector"] = dict(gpu.node_selector)


def router_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the router's Deployment and disruption budget."""
    pod = pod_spec(
        plan,
        component="router",
        args=["router"],
        resources=resources(cpu="250m", memory="256Mi", memory_limit="768Mi"),
        port=("ops", OPS_PORT),
    )
    return workload(plan, "inferlane-router", labels("router", "router"), pod)


def api_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the API's Deployment, disruption budget and Service."""
    selector = labels("api", "api")
    http = ("https" if plan.has_api_tls else "http", API_PORT)
    pod = pod_spec(
        plan,
        component="api",
        args=["api"],
        resources=resources(cpu="500m", memory="256Mi", memory_limit="1Gi"),
        # Kubelet and Prometheus trust no authority of ours.
        port=("ops", OPS_PORT) if plan.has_api_tls else http,
    )
    ports = [*([http] if plan.has_api_tls else []), ("grpc", GRPC_PORT)]
    pod["containers"][0]["ports"] += [{"name": name, "containerPort": number} for name, number in ports]
    # Meshes and gateways balance calls and not connections where they know that it is gRPC.
    spoken = "https" if plan.has_api_tls else "kubernetes.io/h2c"
    grpc = {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": spoken}
    main = {"name": http[0], "port": API_PORT, "targetPort": http[0]}
    if plan.has_api_tls:
        main["appProtocol"] = spoken
    service = document(
        "v1",
        "Service",
        {"name": API, "namespace": plan.namespace, "labels": selector},
        spec={"selector": selector, "ports": [main, grpc]},
    )
    return [*workload(plan, API, selector, pod), service]


def workload(
    plan: DeploymentPlan, name: str, selector: dict[str, str], pod: Document, *, strategy: Document = _ROLLING
) -> list[Document]:
    """Return a Deployment of such pods and its disruption budget."""
    metadata = {"name": name, "namespace": plan.namespace, "labels": selector}
    # No replicas: an apply would set the size that the autoscaler has just changed.
    deployment = document(
        "apps/v1",
        "Deployment",
        metadata,
        spec={
            "selector": {"matchLabels": selector},
            "strategy": strategy,
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


def operator_documents(plan: DeploymentPlan) -> list[Document]:
    """Return a Job in which an operator runs the CLI; it ends by itself after an hour."""
    selector = labels(Service.OPERATOR.value, Service.OPERATOR.value)
    size = resources(cpu="50m", memory="128Mi", memory_limit="512Mi")
    pod = shell_spec(plan, component=Service.OPERATOR.value, resources=size)
    (container,) = pod["containers"]
    container["command"] = ["tini", "--", "sleep", str(_SHELL_S)]
    scheme = "https" if plan.has_api_tls else "http"
    url = f"{scheme}://{API}.{plan.namespace}.svc:{API_PORT}"
    container["env"].append({"name": "INFERLANE_API_URL", "value": url})
    if plan.has_api_tls:
        container["env"].append({"name": "INFERLANE_API_SSL_CAFILE", "value": f"{API_TLS_FOLDER}/{CA_FILE}"})
        mount_secret(pod, "api-ca", API_TLS_FOLDER, API_TLS_SECRET, items=[CA_FILE])
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


# Made by hand, as docs/webhooks.md says.
WEBHOOKS_SECRET = "inferlane-webhooks-secret"  # noqa: S105 - the name of a secret, not one
_VARIABLE = "INFERLANE_WEBHOOK_SECRET"


def webhooks_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the Deployment and disruption budget of the webhooks process; none where callbacks are off."""
    if not plan.settings.webhooks.enabled:
        return []
    component = Service.WEBHOOKS.value
    pod = pod_spec(
        plan,
        component=component,
        args=[component],
        resources=resources(cpu="50m", memory="128Mi", memory_limit="512Mi"),
        port=("ops", OPS_PORT),
    )
    pod["containers"][0]["env"].append({"name": _VARIABLE, **secret_value(WEBHOOKS_SECRET, "secret")})
    return workload(plan, "inferlane-webhooks", labels(component, component), pod)
