"""The Deployment of the webhooks process, where callbacks are on."""

from control_plane.broker_acls import Service
from control_plane.kubernetes.deployment_plan import OPS_PORT, DeploymentPlan, Document, labels
from control_plane.kubernetes.workloads import pod_spec, resources, secret_value, workload

# Made by hand, as docs/webhooks.md says.
WEBHOOKS_SECRET = "inferlane-webhooks-secret"  # noqa: S105 - the name of a secret, not one
_VARIABLE = "INFERLANE_WEBHOOK_SECRET"


def webhooks_documents(plan: DeploymentPlan) -> list[Document]:
    """Return the Deployment and disruption budget of the webhooks process; none where callbacks are off."""
    if not plan.settings.webhooks:
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
