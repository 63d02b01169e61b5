import functools
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from inferlane.cli.main import app
from inferlane.config import Settings, load_settings
from inferlane.errors import UnknownModelError
from inferlane.kubernetes.files import files
from inferlane.kubernetes.names import object_name, service_name
from inferlane.kubernetes.plan import Plan, Waits, cluster_settings, make_plan
from inferlane.kubernetes.pods import grace_period_s
from inferlane.scaling.manifest import read_scaled_objects
from inferlane.scaling.threshold import WorkerPace
from models.samples import SAMPLES
from tests.manifests.pod_security import pods_of
from tests.manifests.rules import faults

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "k8s"
VERSIONS = [("iris", recipe.version) for sample in SAMPLES if sample.name == "iris" for recipe in sample.recipes]
PACE = WorkerPace(row_s=0.005, max_batch_rows=256, batch_overhead_s=0.005)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("INFERLANE_"):
            monkeypatch.delenv(name)


def plan(versions: list[tuple[str, str]] = VERSIONS, **chosen: object) -> Plan:
    settings = cluster_settings(load_settings(**chosen), namespace="inferlane")
    return make_plan(settings, versions, namespace="inferlane", image="inferlane:0.1.0", pace=PACE, waits=Waits())


@functools.cache
def whole() -> str:
    """Every rendered object once."""
    return "---\n".join(text for name, text in files(plan()).items() if "/" in name and "kustomization" not in name)


def test_the_committed_files_are_what_the_catalogue_and_the_settings_give() -> None:
    texts = files(plan())
    committed = {name: (MANIFESTS / name).read_text() for name in texts}
    assert committed == texts


def test_no_rendered_file_of_a_version_that_is_gone_stays() -> None:
    rendered = {MANIFESTS / name for name in files(plan())}
    by_hand = {path for path in MANIFESTS.rglob("*.yaml") if "overlays" in path.parts}
    assert set(MANIFESTS.rglob("*.yaml")) == rendered | by_hand


def test_what_is_rendered_holds_to_every_rule() -> None:
    assert faults(whole(), versions=VERSIONS) == []


def documents() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(whole()) if document]


def test_every_kind_that_makes_pods_is_held_to_the_namespaces_level() -> None:
    found = {name for name, _ in pods_of(documents())}
    assert found == {
        "Deployment inferlane-api",
        "Deployment inferlane-router",
        *(f"Deployment {pool.name}" for pool in plan().pools),
        "StatefulSet inferlane-valkey",
        "Kafka inferlane, entityOperator",
        "KafkaNodePool nodes",
    }


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Kafka", "spec.kafka.template", {}),
        ("Kafka", "spec.kafka.template.pod.securityContext.runAsNonRoot", False),
        ("Kafka", "spec.kafka.template.kafkaContainer.securityContext.capabilities", {"drop": ["ALL"], "add": ["X"]}),
        ("Kafka", "spec.kafka.template.initContainer", {}),
        ("Kafka", "spec.entityOperator.template.pod", {}),
        ("Kafka", "spec.entityOperator.template.userOperatorContainer.securityContext.allowPrivilegeEscalation", True),
        ("Kafka", "spec.kafkaExporter", {}),
        # A pool's own template takes the place of the cluster's.
        ("KafkaNodePool", "spec.template", {"pod": {"securityContext": {"fsGroup": 0}}}),
        ("StatefulSet", "spec.template.spec.securityContext.seccompProfile", {"type": "Unconfined"}),
        ("StatefulSet", "spec.template.spec.initContainers", [{"name": "chown", "securityContext": {"runAsUser": 0}}]),
        ("StatefulSet", "spec.template.spec.volumes", [{"name": "node", "hostPath": {"path": "/"}}]),
        ("StatefulSet", "spec.template.spec.hostNetwork", True),
        ("StatefulSet", "kind", "Unheard"),
        ("Namespace", "metadata.labels", {}),
    ],
)
def test_a_pod_that_the_namespace_would_refuse_is_found(kind: str, path: str, value: object) -> None:
    altered = documents()
    place = next(document for document in altered if document["kind"] == kind)
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    assert faults(yaml.safe_dump_all(altered), versions=VERSIONS)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lagThreshold:", "lagTreshold:", "lagTreshold"),
        ("topic: inferlane.iris.v1.requests", "topic: inferlane.iris.v9.requests", "is not of the code"),
        ("  maxReplicaCount: 12\n", "", "maxReplicaCount None"),
        ("terminationGracePeriodSeconds: 35", "terminationGracePeriodSeconds: 15", "ends before a drain"),
        ("topicName: inferlane.outcomes", "topicName: inferlane.outcome", "not known to the code"),
        ("offsetResetPolicy: earliest", "offsetResetPolicy: latest", "offsetResetPolicy earliest"),
        ("name: INFERLANE_OPS_PORT", "name: INFERLANE_OP_PORT", "is no setting"),
        ("containerPort: 8100", "containerPort: 8101", "listens on 8100"),
        ("revisionHistoryLimit: 5", "replicas: 3", "undo what the autoscaler decided"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "root file system"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "non-root"),
        ("path: /livez", "path: /live", "must ask /livez"),
        ("minReplicaCount: 0", "minReplicaCount: 1", "KEDA warns of it"),
        ("port: 4318", "port: 4317", "for traces"),
    ],
)
def test_a_planted_mistake_is_found(before: str, after: str, said: str) -> None:
    text = whole()
    assert before in text
    found = faults(text.replace(before, after, 1), versions=VERSIONS)
    assert any(said in fault for fault in found), found


def test_hpa_yaml_is_what_the_local_autoscaler_reads() -> None:
    found = read_scaled_objects((MANIFESTS / "hpa.yaml").read_text(), source="k8s/hpa.yaml")
    assert [each.target for each in found] == [
        "inference-service-v1",
        "inference-service-v2",
        "inference-service-v2-quantized",
        "inferlane-router",
    ]
    assert [each.min_replicas for each in found] == [0, 0, 0, 1]


def test_a_longer_wait_lets_more_lag_wait() -> None:
    def threshold(wait_s: float) -> int:
        settings = cluster_settings(load_settings(), namespace="n")
        made = make_plan(settings, VERSIONS, namespace="n", image="i:1", pace=PACE, waits=Waits(requests_s=wait_s))
        return made.pools[0].thresholds["inferlane.iris.v1.requests"]

    assert threshold(10.0) > 2 * threshold(5.0) > 0


def test_the_grace_period_follows_the_drain_deadline() -> None:
    assert grace_period_s(Settings(drain_deadline_s=100), "worker") > 100
    assert grace_period_s(Settings(drain_deadline_s=100), "router") > grace_period_s(
        Settings(drain_deadline_s=100), "worker"
    )


def test_a_password_is_read_from_a_secret_and_is_in_no_file() -> None:
    texts = files(
        plan(
            redis_url="rediss://user:hunter2@store:6379/0",
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="u",
            kafka_sasl_password="hunter2",  # noqa: S106 - a password of nothing
        )
    )
    assert "hunter2" not in "".join(texts.values())
    assert "secretKeyRef" in texts["inference-service-v1.yaml"]


def test_names_of_any_model_are_names_of_kubernetes() -> None:
    assert service_name("Big_Net", "V1.2", default_model="iris") == "inference-service-big-net-v1-2"
    assert service_name("iris", "v1", default_model="iris") == "inference-service-v1"
    assert object_name("inferlane.Big_Net.v1.requests") == "inferlane.big-net.v1.requests"


@pytest.mark.parametrize("name", ["laptop", "production"])
def test_an_overlay_has_every_version_and_sets_known_settings_alone(name: str) -> None:
    index = yaml.safe_load((MANIFESTS / "overlays" / name / "kustomization.yaml").read_text())
    pools = {f"../../components/{pool.name}" for pool in plan().pools}
    assert pools <= set(index["components"])
    known = {f"INFERLANE_{field.upper()}" for field in Settings.model_fields}
    texts = [path.read_text() for path in (MANIFESTS / "overlays" / name).glob("*.yaml")]
    assert {word for text in texts for word in re.findall(r"INFERLANE_\w+", text)} <= known


def test_render_writes_another_version_and_wait(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["k8s", "render", "--out", str(out), "--version", "digits/v1", "--target-wait", "9"]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 0, ran.output
    numbers = read_scaled_objects((out / "hpa.yaml").read_text(), source="hpa.yaml")[0]
    assert [trigger.topic for trigger in numbers.triggers] == [
        "inferlane.digits.v1.requests",
        "inferlane.digits.v1.bulk",
    ]
    # μ = 256 / 1.285 records a second of one worker; docs/scaling.md has the formula.
    assert numbers.triggers[0].lag_threshold == int(256 / 1.285 * (9 - 1.285) / 1.1)
    assert (out / "inference-service-digits-v1.yaml").exists()


def test_a_version_that_the_catalogue_lacks_is_not_rendered(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["k8s", "render", "--out", str(tmp_path), "--version", "v99"])
    assert isinstance(ran.exception, UnknownModelError)
    assert not list(tmp_path.iterdir())
