"""`python -m tests.manifests.variant FOLDER`: what `inferlane k8s render` makes of other choices, with an overlay.

Two versions of another model, another namespace and image, TLS to the store: CI holds it to the same checks.
"""

import sys
from pathlib import Path

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.kubernetes.deployment_plan import Waits, cluster_settings, make_plan
from control_plane.kubernetes.manifest_files import files, write_files
from inferlane.runtime.config import load_settings

VERSIONS = [("digits", "v1"), ("digits", "v2")]
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
    plan = make_plan(
        cluster_settings(load_settings(), namespace="ml", store_tls=True),
        VERSIONS,
        namespace="ml",
        image="registry.example/inferlane:0.1.0",
        pace=WorkerPace(row_s=0.005, max_batch_rows=256, batch_overhead_s=0.005),
        waits=Waits(),
    )
    write_files(folder / "rendered", files(plan))
    write_files(folder, {"mine/kustomization.yaml": _MINE})


if __name__ == "__main__":
    main()
