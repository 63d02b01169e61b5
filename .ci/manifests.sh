#!/usr/bin/env bash
# Checks the Dockerfile, every manifest in k8s/, and what kustomize and Helm make of them: hadolint, the schemas of
# Kubernetes and of the custom resources, checkov's policies, and our own rules. A kind or a key that is not known fails.
# Needs .venv; installs the tools into .inferlane/manifests and .inferlane/checkov. Debian or Ubuntu, root, where Go is
# missing.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly KEDA=github.com/kedacore/keda/v2@v2.20.0
readonly PROMETHEUS_OPERATOR=github.com/prometheus-operator/prometheus-operator@v0.85.0
# Has the pods that Kubernetes tests the level `restricted` with.
readonly POD_SECURITY=k8s.io/pod-security-admission@v0.35.0
readonly HELM=helm.sh/helm/v3/cmd/helm@v3.21.4
readonly TOOLS=.inferlane/manifests
# Apart: its hundred packages are not to choose the versions of the others.
readonly CHECKOV=.inferlane/checkov

# Makes a folder an environment with what a lock file names.
environment() {
  [[ -x $1/bin/python ]] || .venv/bin/python -m venv "$1"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$2"
}
environment "$TOOLS" .ci/manifests.lock
environment "$CHECKOV" .ci/checkov.lock

command -v go >/dev/null || .ci/apt-install.sh golang-go
# Prints the folder that the module was unpacked to.
module() {
  go mod download -json "$1" | "$TOOLS/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["Dir"])'
}
keda="$(module "$KEDA")"
operator="$(module "$PROMETHEUS_OPERATOR")"
pod_security="$(module "$POD_SECURITY")"

built="$(mktemp -d)"
trap 'rm -rf "$built"' EXIT
.venv/bin/inferlane init "$built/starter" >/dev/null
"$TOOLS/bin/hadolint" Dockerfile "$built/starter/Dockerfile"
rm -r "$built/starter"
for overlay in k8s/overlays/*/; do
  "$TOOLS/bin/kubectl" kustomize "$overlay" >"$built/$(basename "$overlay").yaml"
done
cp k8s/*.yaml "$built/"
# What a user renders for other models, in an overlay of their own.
.venv/bin/python -m tests.manifests.variant "$built/variant"
mkdir "$built/other"
"$TOOLS/bin/kubectl" kustomize "$built/variant/mine" >"$built/other/mine.yaml"
rm -r "$built/variant"

# The chart makes what kustomize makes: of the overlays' choices, and of pools whose names Kubernetes spells otherwise.
GOBIN="$PWD/$TOOLS/go" go install "$HELM"
helm="$TOOLS/go/helm"
chart=k8s/helm/inferlane
template() { "$helm" template inferlane "$chart" --kube-version 1.34.0 "$@"; }
charts="$built/charts"
mkdir "$charts"
for overlay in laptop production; do
  "$helm" lint --quiet --kube-version 1.34.0 --strict --values "$chart/values-$overlay.yaml" "$chart"
  template --namespace inferlane --values "$chart/values-$overlay.yaml" >"$charts/$overlay.yaml"
  .venv/bin/python -m tests.manifests.chart "$charts/$overlay.yaml" "$built/$overlay.yaml"
done
.venv/bin/python -m tests.manifests.variant "$charts/odd" --names
template --namespace ml --values "$charts/odd/values.yaml" >"$charts/odd/chart.yaml"
"$TOOLS/bin/kubectl" kustomize "$charts/odd/rendered/overlays/laptop" >"$charts/odd/kustomized.yaml"
.venv/bin/python -m tests.manifests.chart "$charts/odd/chart.yaml" "$charts/odd/kustomized.yaml"
for refused in pools[0].model=-a,pools[0].version=v1 env.INFERLANE_LOG_FORMAT=console env.INFERLANE_API_AUTH=off \
  pools[0].model=Fraud,pools[0].version=v1,pools[1].model=fraud,pools[1].version=v1 \
  pools[0].model=fraud,pools[0].version=v1,pools[0].minReplicas=20 api.minReplicas=20 router.minReplicas=20; do
  ! template --set "$refused" >/dev/null 2>&1 || { echo "error: the chart took $refused"; exit 1; }
done
# Numbers of a file of values are floats to Helm, and must not be written as 1e+06.
echo 'env: {INFERLANE_MAX_ROWS: 2000000, INFERLANE_CANCEL_ON_DISCONNECT: true}' >"$charts/env.yaml"
template --values "$charts/env.yaml" >"$charts/env-chart.yaml"
for value in 2000000 true; do
  grep -q "value: \"$value\"" "$charts/env-chart.yaml" || { echo "error: the chart wrote $value otherwise"; exit 1; }
done
rm -r "$charts"

"$TOOLS/bin/python" tests/manifests/schemas.py \
  --crd "$keda/config/crd/bases/keda.sh_scaledobjects.yaml" \
  --crd "$keda/config/crd/bases/keda.sh_triggerauthentications.yaml" \
  --crd tests/manifests/strimzi/kafka.yaml --crd tests/manifests/strimzi/kafkanodepool.yaml \
  --crd tests/manifests/strimzi/kafkatopic.yaml --crd tests/manifests/strimzi/kafkauser.yaml \
  --crd "$operator/example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml" \
  "$built"/*.yaml "$built"/other/*.yaml
"$CHECKOV/bin/checkov" --config-file .ci/checkov.yaml --directory "$built"
.venv/bin/python -m tests.manifests --pod-security "$pod_security/test/testdata/restricted/v1.35" "$built"/*.yaml
.venv/bin/python -m tests.manifests --version digits/v1 --version digits/v2 "$built"/other/*.yaml
