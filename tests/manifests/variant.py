"""`python -m tests.manifests.variant FOLDER [--names]`: what `inferlane k8s render` makes of other choices.

Two versions of another model, another namespace and image, TLS to the store, with an overlay: CI holds it to the same
checks. With `--names`, pools whose names Kubernetes spells otherwise, and the same as values for the chart.
"""

import sys
from dataclasses import replace
from pathlib import Path

import yaml

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.kubernetes.deployment_plan import DeploymentPlan, GpuPlan, Waits, make_plan
from control_plane.kubernetes.helm_chart import chart_files
from control_plane.kubernetes.helm_templates import CHART_IMAGE, CHART_NAMESPACE, CHART_POOL
from control_plane.kubernetes.manifest_files import files, write_files
from control_plane.kubernetes.pod_settings import cluster_settings
from inferlane.runtime.config import load_settings

VERSIONS = [("digits", "v1"), ("digits", "v2")]
# A capital, an underscore, a dot, a number alone, and one that does not fit into a label.
ODD_VERSIONS = [("iris", "v1"), ("Fraud_eu", "v1.2"), ("churn", "3"), ("a-" * 25 + "end", "v2.0_" * 8 + "end")]
GPUS = {
    ("iris", "v1"): GpuPlan(image="registry.example/inferlane:0.1.0-gpu", count=2),
    ("churn", "3"): GpuPlan(image="gpu:1", resource="nvidia.com/mig-1g.10gb", node_selector={"pool": "gpu"}),
}
_USUAL = {"pace": WorkerPace(row_s=0.005, max_batch_rows=256, batch_overhead_s=0.005), "waits": Waits()}
# A bulk threshold of millions.
_FAST = {"pace": WorkerPace(row_s=0.00001, max_batch_rows=256, batch_overhead_s=0.005), "waits": Waits()}
_MINE = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../rendered/overlays/production]
images:
  - name: registry.example/inferlane
    digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
"""


def main() -> None:
    folder = Path(sys.argv[1])
    odd = "--names" in sys.argv
    versions = ODD_VERSIONS if odd else VERSIONS
    made = make_plan(
        cluster_settings(load_settings(), namespace="ml", store_tls=not odd),
        versions,
        namespace="ml",
        image="registry.example/inferlane:0.1.0",
        **(_FAST if odd else _USUAL),
        gpus=GPUS if odd else {},
    )
    plan = replace(made, has_api_tls=True)
    write_files(folder / "rendered", files(plan))
    laptop = yaml.safe_load(Path("k8s/helm/inferlane/values-laptop.yaml").read_text(encoding="utf-8"))
    chart = chart_files(_chart_plan(), versions, image=plan.image, gpus=GPUS)
    values = {**yaml.safe_load(chart["values.yaml"]), **laptop}
    values["api"] = {**values["api"], "tls": True}
    write_files(folder, {"values.yaml": yaml.safe_dump(values)})
    write_files(folder, {"mine/kustomization.yaml": _MINE})


def _chart_plan() -> DeploymentPlan:
    settings = cluster_settings(load_settings(), namespace=CHART_NAMESPACE)
    return make_plan(settings, [CHART_POOL], namespace=CHART_NAMESPACE, image=CHART_IMAGE, **_FAST)


if __name__ == "__main__":
    main()
