import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.autoscaling.scaled_object import read_scaled_objects
from control_plane.cli.main import command_line
from control_plane.kubernetes.backing_services import user_lines
from control_plane.kubernetes.deployment_plan import (
    DeploymentPlan,
    GpuPlan,
    Waits,
    make_plan,
    object_name,
    service_name,
)
from control_plane.kubernetes.helm_chart import chart_files
from control_plane.kubernetes.helm_templates import CHART_IMAGE, CHART_NAMESPACE, CHART_POOL
from control_plane.kubernetes.manifest_files import files
from control_plane.kubernetes.name_rules import check_image, label_of
from control_plane.kubernetes.pod_settings import cluster_settings
from control_plane.kubernetes.pod_spec import grace_period_s
from inferlane.contracts.naming import Names
from inferlane.errors import ConfigurationError, UnknownModelError
from inferlane.runtime.config import load_settings, setting_fields
from inferlane.runtime.settings import KafkaSettings
from models.samples import SAMPLES
from tests.manifests.pod_security import pods_of
from tests.manifests.rules import faults

REPOSITORY = Path(__file__).parents[3]
MANIFESTS = REPOSITORY / "k8s"
CHART = MANIFESTS / "helm" / "inferlane"
VERSIONS = [("iris", recipe.version) for sample in SAMPLES if sample.name == "iris" for recipe in sample.recipes]
PACE = WorkerPace(row_s=0.005, max_batch_rows=256, batch_overhead_s=0.005)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("INFERLANE_"):
            monkeypatch.delenv(name)


def plan(versions: list[tuple[str, str]] = VERSIONS, **chosen: object) -> DeploymentPlan:
    settings = cluster_settings(load_settings(**chosen), namespace="inferlane")
    return make_plan(settings, versions, namespace="inferlane", image="inferlane:0.1.0", pace=PACE, waits=Waits())


@functools.cache
def whole() -> str:
    """Every rendered object once."""
    texts = files(plan())
    parts = [text for name, text in texts.items() if "/" in name and "kustomization" not in name]
    return "---\n".join([*parts, texts["operator.yaml"]])


def test_the_committed_files_are_what_the_catalogue_and_the_settings_give() -> None:
    texts = files(plan())
    committed = {name: (MANIFESTS / name).read_text() for name in texts}
    assert committed == texts


def chart(**chosen: object) -> Mapping[str, str]:
    settings = cluster_settings(load_settings(**chosen), namespace=CHART_NAMESPACE)
    made = make_plan(settings, [CHART_POOL], namespace=CHART_NAMESPACE, image=CHART_IMAGE, pace=PACE, waits=Waits())
    return chart_files(made, VERSIONS, image="inferlane:0.1.0")


def test_the_committed_chart_is_what_the_catalogue_and_the_settings_give() -> None:
    texts = chart()
    assert {name: (CHART / name).read_text() for name in texts} == texts


def test_no_rendered_file_of_a_version_that_is_gone_stays() -> None:
    assert {path for path in MANIFESTS.rglob("*") if path.is_file()} == {
        *(MANIFESTS / name for name in files(plan())),
        *(CHART / name for name in chart()),
    }


def test_no_stand_in_and_no_mark_stays_in_the_chart() -> None:
    text = "".join(chart().values())
    stand_ins = [CHART_NAMESPACE, CHART_IMAGE, *CHART_POOL, *map(object_name, CHART_POOL), "@@", "98765432"]
    assert [name for name in stand_ins if name in text] == []


def test_every_number_of_the_charts_values_is_written_whole() -> None:
    """Helm reads them as floats, and writes a million as 1e+06, which neither KEDA nor a process takes."""
    texts = {name: text for name, text in chart().items() if name.startswith("templates/")}
    numbers = [
        each
        for name, text in texts.items()
        if name != "templates/checks.yaml"
        for each in re.findall(r"{{ (.*?) }}", text)
        if re.search(r"Replicas|[tT]hreshold|count\b|nodes\b|\$value\b", each)
    ]
    assert len(numbers) > len(SAMPLES)
    assert [each for each in numbers if not re.search(r"\bint(64)? |toJson \$value", f"{each} ")] == []


def test_the_chart_refuses_a_setting_that_it_sets_itself_or_is_made_from() -> None:
    """A name twice in an env is refused by the API server, and the grace period does not follow the values."""
    texts = chart(webhooks=True)
    (found,) = re.findall(r"\$taken := list (.*) }}", texts["templates/checks.yaml"])
    taken = set(found.replace('"', "").split())
    set_there = {name for text in texts.values() for name in re.findall(r"- name: (INFERLANE_\w+)", text)}
    assert set_there - {"INFERLANE_API_AUTH"} <= taken
    assert {"INFERLANE_DRAIN_DEADLINE_S", "INFERLANE_PREFIX", "INFERLANE_LOG_FORMAT"} <= taken
    assert "INFERLANE_MAX_ROWS" not in taken


def test_a_chart_for_a_broker_elsewhere_makes_no_cluster() -> None:
    texts = chart(kafka_bootstrap_servers="kafka.example:9092")
    assert not [name for name in texts if "kafka-" in name]
    assert "kafka" not in yaml.safe_load(texts["values.yaml"])


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
        "Job inferlane-operator",
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
        ("    authorization:\n      type: simple\n    config:", "    config:", "the broker has no authorization"),
        ("      tls: true\n", "      tls: false\n", "lets in without TLS"),
        ("name: inferlane-worker\n", "name: inferlane-clerk\n", "of no service"),
        ("      - Describe\n", "      - Read\n", "is missing"),
        ("patternType: literal", "patternType: prefix", "is not on one whole name"),
        ("value: inferlane-router\n", "value: inferlane-worker\n", "not as inferlane-router"),
        ("authenticationRef:\n      name: inferlane-kafka", "authenticationRef:\n      name: x", "authenticationRef"),
        ("--aclfile", "--aclfiles", "lets in whoever reaches it"),
        ("- ping\n", "- pong\n", "must ask the store"),
        ("name: INFERLANE_REDIS_PASSWORD", "name: INFERLANE_REDIS_URL", "has no password of the store"),
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
    assert grace_period_s(KafkaSettings(drain_deadline_s=100), "worker") > 100
    assert grace_period_s(KafkaSettings(drain_deadline_s=100), "router") > grace_period_s(
        KafkaSettings(drain_deadline_s=100), "worker"
    )


@pytest.mark.parametrize(
    "store",
    [
        {"redis_url": "rediss://user:hunter2@store:6379/0"},
        {"redis_url": "rediss://store:6379/0", "redis_username": "user", "redis_password": "hunter2"},
        {"redis_url": "redis://store:6379/0?password=hunter2"},
        {"redis_url": "redis+sentinel://store/mymaster?sentinel_username=s&sentinel_password=hunter2"},
        {"redis_url": "redis+cluster://user:hunter2@[fd00::1]:7000,[fd00::2]:7001"},
    ],
)
@pytest.mark.parametrize("servers", [{}, {"kafka_bootstrap_servers": "kafka.example:9094"}])
def test_a_password_is_read_from_a_secret_and_is_in_no_file(store: dict[str, str], servers: dict[str, str]) -> None:
    secrets = {
        name: "hunter2"
        for name, field in setting_fields().items()
        if "SecretStr" in str(field.annotation) and name != "redis_password"
    }
    texts = files(
        plan(
            **store,
            **servers,
            **secrets,
            prometheus_url="http://u:hunter2@prometheus.example",
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="u",
        )
    )
    assert "hunter2" not in "".join(texts.values())
    for env in environments(texts).values():
        assert "secretKeyRef" in env["INFERLANE_REDIS_URL"]["valueFrom"]
        assert "INFERLANE_REDIS_PASSWORD" not in env
    prometheus = {name: env.get("INFERLANE_PROMETHEUS_URL", {}) for name, env in environments(texts).items()}
    assert {name for name, entry in prometheus.items() if entry} == {"inferlane-api", "inferlane-router"}
    assert "secretKeyRef" in prometheus["inferlane-router"]["valueFrom"]


def test_no_file_address_or_port_of_this_machine_is_in_a_pod(tmp_path: Path) -> None:
    """They were taken over: no pod became ready, or a process looked for a file that only this machine had."""
    (tmp_path / "here").touch()
    paths = {name for name, field in setting_fields().items() if "Path" in str(field.annotation)}
    hosts = {"api_host", "ops_host", "dashboard_host"}
    ports = {"api_port", "grpc_port", "ops_port", "dashboard_port"}
    assert hosts | ports <= setting_fields().keys()
    values = ((paths, tmp_path / "here"), (hosts, "127.9.8.7"), (ports, 9876))
    here = {name: value for names, value in values for name in names}
    places = {"api_url": "https://127.9.8.7", "api_peers": "127.9.8.7:9876", "redis_url": "rediss://store.example"}
    broker = {"kafka_bootstrap_servers": "kafka.example", "kafka_security_protocol": "SSL"}
    settings = cluster_settings(load_settings(**here, **places, **broker), namespace="n", api_tls=True)
    made = make_plan(settings, VERSIONS, namespace="n", image="i:1", pace=PACE, waits=Waits())

    for has_tls in (False, True):
        text = "".join(files(replace(made, has_api_tls=has_tls)).values())
        assert [value for value in (str(tmp_path), "127.9.8.7", "9876") if value in text] == []


def test_files_of_a_broker_and_a_store_elsewhere_are_mounted_where_the_pods_look(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    store = {"redis_url": "rediss://store.example/0?socket_timeout=5", "redis_ssl_cafile": tmp_path / "ca.pem"}
    broker = {"kafka_bootstrap_servers": "kafka.example", "kafka_security_protocol": "SSL"}
    texts = files(plan(**store, **broker, kafka_ssl_certfile="a.pem"))

    worker = next(yaml.safe_load_all(texts["inference-service-v1.yaml"]))["spec"]["template"]["spec"]
    (container,) = worker["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["INFERLANE_REDIS_URL"] == "rediss://store.example/0?socket_timeout=5"
    folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    mounted = {
        f"{folders[volume['name']]}/{item['path']}": volume["secret"]["secretName"]
        for volume in worker["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    assert mounted == {
        env["INFERLANE_KAFKA_SSL_CERTFILE"]: "inferlane-kafka-client",
        env["INFERLANE_KAFKA_SSL_KEYFILE"]: "inferlane-kafka-client",
        env["INFERLANE_REDIS_SSL_CAFILE"]: "inferlane-store-ca",
    }
    # KEDA connects to the same broker.
    keda = yaml.safe_load(texts["base/authentication.yaml"])["spec"]["secretTargetRef"]
    assert [(each["parameter"], each["key"]) for each in keda] == [("cert", "tls.crt"), ("key", "tls.key")]


@pytest.mark.parametrize(
    ("variable", "argv", "says"),
    [
        ({"INFERLANE_API_SSL_CERTFILE": "/here/tls.crt"}, [], "'/here/tls.crt' is a file of this machine"),
        ({"INFERLANE_GRPC_SSL_CERTFILE": "/here/tls.crt"}, ["--helm"], "add --api-tls; otherwise unset"),
        ({"INFERLANE_REDIS_URL": "redis://store.example"}, ["--store-tls"], "INFERLANE_REDIS_URL names another one"),
    ],
)
def test_tls_that_no_pod_would_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: dict[str, str], argv: list[str], says: str
) -> None:
    for name, value in variable.items():
        monkeypatch.setenv(name, value)

    assert says in str(rendered(tmp_path, *argv).exception)
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_model_are_names_of_kubernetes() -> None:
    assert service_name("Big_Net", "V1.2", default_model="iris") == "inference-service-big-net-v1-2"
    assert service_name("iris", "v1", default_model="iris") == "inference-service-v1"
    assert object_name("inferlane.Big_Net.v1.requests") == "inferlane.big-net.v1.requests"


@pytest.mark.parametrize("name", ["laptop", "production"])
def test_an_overlay_is_rendered_with_every_version_and_sets_known_settings_alone(name: str) -> None:
    texts = files(plan([("digits", "v1"), ("other", "v2")]))
    overlay = texts[f"overlays/{name}/kustomization.yaml"]
    index = yaml.safe_load(overlay)
    folder = Path("overlays", name)
    for part in (*index["resources"], *index["components"]):
        assert os.path.normpath(folder / part / "kustomization.yaml") in texts
    assert {"../../components/inference-service-digits-v1", "../../components/inference-service-other-v2"} <= set(
        index["components"]
    )
    known = {f"INFERLANE_{field.upper()}" for field in setting_fields()}
    assert set(re.findall(r"INFERLANE_\w+", overlay)) <= known


def environments(texts: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The env of every pod of ours, by the name of its workload."""
    documents = [each for name, text in texts.items() if "/" in name for each in yaml.safe_load_all(text)]
    return {
        each["metadata"]["name"]: {
            entry["name"]: entry for entry in each["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        for each in documents
        if each["kind"] == "Deployment"
    }


def test_each_service_logs_in_with_the_secret_that_strimzi_makes_for_its_user() -> None:
    for name, env in environments(files(plan())).items():
        user = "inferlane-worker" if name.startswith("inference-service") else name
        assert env["INFERLANE_KAFKA_SASL_USERNAME"]["value"] == user
        secret = env["INFERLANE_KAFKA_SASL_PASSWORD"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": user, "key": "password"}
        assert env["INFERLANE_KAFKA_SECURITY_PROTOCOL"]["value"] == "SASL_SSL"


def test_tls_of_the_store_is_a_switch() -> None:
    without, with_tls = (
        files(
            make_plan(
                cluster_settings(load_settings(), namespace="n", store_tls=store_tls),
                VERSIONS,
                namespace="n",
                image="i:1",
                pace=PACE,
                waits=Waits(),
            )
        )
        for store_tls in (False, True)
    )
    assert "tls-port" not in without["base/store.yaml"]
    store = next(yaml.safe_load_all(with_tls["base/store.yaml"]))["spec"]["template"]["spec"]
    args = store["containers"][0]["args"]
    assert args[args.index("--port") + 1] == "0"
    assert "--tls" in store["containers"][0]["livenessProbe"]["exec"]["command"]
    for env in environments(without).values():
        assert env["INFERLANE_REDIS_URL"]["value"].startswith("redis://")
    for env in environments(with_tls).values():
        assert env["INFERLANE_REDIS_URL"]["value"].startswith("rediss://")
        assert env["INFERLANE_REDIS_SSL_CAFILE"]["value"] == "/etc/inferlane/store/ca.crt"
    # The key of the store is mounted by the store alone.
    worker = yaml.safe_load(with_tls["inference-service-v1.yaml"].split("---")[0])["spec"]["template"]["spec"]
    (authority,) = [volume for volume in worker["volumes"] if volume["name"] == "store-ca"]
    assert authority["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_tls_of_the_api_is_a_switch() -> None:
    """Guards the ops port of its probes: a kubelet trusts no authority, and the rules find a probe of no port."""
    made = replace(plan(), has_api_tls=True)
    texts = files(made)
    parts = [text for name, text in texts.items() if "/" in name and "kustomization" not in name]
    assert faults("---\n".join([*parts, texts["operator.yaml"]]), versions=VERSIONS) == []
    env = environments(texts)
    assert env["inferlane-api"]["INFERLANE_API_SSL_CERTFILE"]["value"] == "/etc/inferlane/tls/tls.crt"
    assert env["inferlane-api"]["INFERLANE_GRPC_SSL_KEYFILE"]["value"] == "/etc/inferlane/tls/tls.key"
    assert env["inferlane-api"]["INFERLANE_OPS_PORT"]["value"] == "8100"
    assert [name for name, held in env.items() if "INFERLANE_API_SSL_CERTFILE" in held] == ["inferlane-api"]
    api, _, service, _ = yaml.safe_load_all(texts["base/api.yaml"])
    (container,) = api["spec"]["template"]["spec"]["containers"]
    assert {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")} == {"ops"}
    assert {port["name"] for port in container["ports"]} == {"ops", "https", "grpc"}
    (pair,) = [volume for volume in api["spec"]["template"]["spec"]["volumes"] if volume["name"] == "api-tls"]
    assert [item["key"] for item in pair["secret"]["items"]] == ["tls.crt", "tls.key"]
    assert {port["appProtocol"] for port in service["spec"]["ports"]} == {"https"}
    # Who runs commands in the cluster has the authority, and not the key.
    operator = yaml.safe_load(texts["operator.yaml"])["spec"]["template"]["spec"]
    (authority,) = [volume for volume in operator["volumes"] if volume["name"] == "api-ca"]
    assert [item["key"] for item in authority["secret"]["items"]] == ["ca.crt"]
    assert "https://inferlane-api.inferlane.svc:8000" in texts["operator.yaml"]
    # Without the switch nothing of it is there.
    assert "tls.crt" not in whole()


def test_with_a_broker_and_a_store_of_ones_own_none_is_rendered_and_the_way_out_is_open() -> None:
    texts = files(plan(kafka_bootstrap_servers="kafka.example:19092", redis_url="redis://store.example:16379/0"))
    assert not [name for name in texts if "components/kafka" in name or name == "base/store.yaml"]
    assert "components/kafka" not in texts["overlays/production/kustomization.yaml"]
    assert {"19092", "16379"} <= set(re.findall(r"port: (\d+)", texts["base/network-policies.yaml"]))
    assert "authenticationRef" not in texts["hpa.yaml"]


@pytest.mark.parametrize(
    ("chosen", "ports"),
    [
        ({"redis_url": "redis+sentinel://s.example:26379/mymaster"}, {26379, 6379}),
        ({"redis_url": "redis+sentinel://u:p@a.example,b.example:26380/mymaster"}, {26379, 26380, 6379}),
        ({"redis_url": "redis+cluster://[fd00::1]:7000,[fd00::2]:7001"}, {7000, 7001}),
        ({"redis_url": "rediss://store.example"}, {6379}),
        ({"kafka_bootstrap_servers": "kafka"}, {9092}),
        ({"kafka_bootstrap_servers": "a.example:9093, [fd00::1]"}, {9093, 9092}),
    ],
)
def test_the_way_out_is_open_to_every_host_of_a_broker_and_a_store_elsewhere(
    chosen: dict[str, str], ports: set[int]
) -> None:
    policies = yaml.safe_load_all(files(plan(**chosen))["base/network-policies.yaml"])
    (services,) = (each["spec"] for each in policies if each["metadata"]["name"] == "services")
    outside = [rule for rule in services["egress"] if "to" not in rule]
    assert [{port["port"] for port in rule["ports"]} for rule in outside] == [ports]


def test_with_a_broker_of_ones_own_each_service_may_have_its_user_too() -> None:
    chosen = {
        "kafka_bootstrap_servers": "kafka.example:9094",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "SCRAM-SHA-256",
        "kafka_sasl_username": "any",
        "kafka_sasl_password": "hunter2",
        "kafka_ssl_cafile": "/here/ca.pem",
    }
    settings = cluster_settings(load_settings(**chosen), namespace="n")
    options = {"namespace": "n", "image": "i:1", "pace": PACE, "waits": Waits()}
    alone, each = (
        environments(files(make_plan(settings, VERSIONS, user_per_service=own, **options))) for own in (False, True)
    )
    assert {env["INFERLANE_KAFKA_SASL_USERNAME"]["value"] for env in alone.values()} == {"any"}
    assert each["inferlane-router"]["INFERLANE_KAFKA_SASL_USERNAME"]["value"] == "inferlane-router"
    assert {env["INFERLANE_KAFKA_SSL_CAFILE"]["value"] for env in alone.values()} == {"/etc/inferlane/kafka/ca.crt"}
    trigger = yaml.safe_load_all(files(make_plan(settings, VERSIONS, **options))["hpa.yaml"])
    metadata = next(trigger)["spec"]["triggers"][0]["metadata"]
    assert (metadata["sasl"], metadata["tls"]) == ("scram_sha256", "enable")


def test_the_secret_of_the_store_is_new_each_time_and_holds_its_users() -> None:
    made = [yaml.safe_load(CliRunner().invoke(command_line(), ["k8s", "store-secret"]).output) for _ in range(2)]
    passwords = [each["stringData"]["password"] for each in made]
    assert len(set(passwords)) == 2
    assert min(len(password) for password in passwords) >= 32
    users = made[0]["stringData"]["users.acl"]
    assert hashlib.sha256(passwords[0].encode()).hexdigest() in users
    assert passwords[0] not in users


def test_render_writes_another_version_and_wait(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["k8s", "render", "--out", str(out), "--version", "digits/v1", "--target-wait", "9"]
    ran = CliRunner().invoke(command_line(), asked)
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
    ran = CliRunner().invoke(command_line(), ["k8s", "render", "--out", str(tmp_path), "--version", "v99"])
    assert isinstance(ran.exception, UnknownModelError)
    assert not list(tmp_path.iterdir())


def test_the_objects_and_topics_of_one_version_are_printed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERLANE_MODELS_DIR", str(REPOSITORY / ".inferlane" / "models"))
    asked = ["k8s", "render", "--model", "digits", "--version", "v1"]
    printed = CliRunner().invoke(command_line(), asked)
    assert printed.exit_code == 0, printed.output
    documents = list(yaml.safe_load_all(printed.stdout))
    name = "inference-service-digits-v1"
    assert [(each["kind"], each["metadata"]["name"]) for each in documents] == [
        ("KafkaTopic", "inferlane.digits.v1.requests"),
        ("KafkaTopic", "inferlane.digits.v1.bulk"),
        ("Deployment", name),
        ("PodDisruptionBudget", name),
        ("ScaledObject", name),
    ]
    whole = CliRunner().invoke(
        command_line(), ["k8s", "render", "--out", str(tmp_path / "k8s"), "--version", "digits/v1"]
    )
    assert whole.exit_code == 0, whole.output
    of_pool = (tmp_path / "k8s" / "components" / name / "deployment.yaml").read_text()
    assert documents[2:4] == list(yaml.safe_load_all(of_pool))
    other = CliRunner().invoke(command_line(), asked, env={"INFERLANE_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"})
    assert "KafkaTopic" not in other.output


def test_a_model_without_a_version_prints_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(command_line(), ["k8s", "render", "--model", "digits"])
    assert isinstance(ran.exception, ConfigurationError)
    assert not list(tmp_path.iterdir())


def test_the_docs_show_the_user_of_the_store_that_the_secret_has() -> None:
    shown = (REPOSITORY / "docs" / "connections.md").read_text()
    assert f"    {user_lines(Names(), '>PASSWORD')[-1]}\n" in shown


def test_the_docs_install_in_an_order_that_works() -> None:
    """A Secret needs its namespace, a topic must go while the operator runs, an overlay needs what comes before it."""
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    in_order = [
        "helm repo add kedacore",
        "helm repo add strimzi",
        "helm install keda",
        "helm install strimzi",
        "kubectl apply -f k8s/base/namespace.yaml",
        "inferlane k8s store-secret | kubectl create",
        "create secret generic inferlane-api-keys",
        "kubectl apply -k k8s/overlays/laptop",
        "delete kafkatopics,kafkausers --all",
        "kubectl delete -k k8s/overlays/laptop",
        "helm uninstall strimzi",
    ]
    places = [text.index(step) for step in in_order]
    assert places == sorted(places)
    joined = text.replace("\\\n", " ")
    assert all("--version" in line for line in re.findall(r"helm install .*", joined))
    for path in re.findall(r"kubectl \w+ -[kf] (k8s/[\w./-]+)", text):
        assert (REPOSITORY / path).exists(), path


def test_the_docs_upgrade_the_api_first() -> None:
    """An older API cannot read what newer workers write."""
    upgrade = (REPOSITORY / "docs" / "operations.md").read_text().partition("### Upgrade and rollback")[2]
    steps = ["set image deployment/inferlane-api", "rollout status deployment/inferlane-api", "kubectl apply -k"]
    places = [upgrade.index(step) for step in steps]
    assert places == sorted(places)


def test_two_pools_of_one_name_are_refused_and_long_names_stay_apart() -> None:
    with pytest.raises(ConfigurationError, match="iris/digits-v1 and digits/v1 would both be called"):
        plan([("iris", "digits-v1"), ("digits", "v1")])
    names = [service_name("m" * 63, f"{'v' * 60}{end}", default_model="iris") for end in "ab"]
    assert len({*names}) == 2
    assert all(len(name) <= 63 for name in names)
    assert service_name("a", "b__c", default_model="") != service_name("a", "b_c", default_model="")


def test_a_pool_on_a_gpu_gets_it_with_the_image_and_the_nodes_that_have_one() -> None:
    gpu = GpuPlan(image="inferlane:0.1.0-gpu", count=2, node_selector={"gpu.nvidia.com/class": "H100"})
    settings = cluster_settings(load_settings(), namespace="inferlane")
    planned = make_plan(
        settings,
        VERSIONS,
        namespace="inferlane",
        image="inferlane:0.1.0",
        pace=PACE,
        waits=Waits(),
        gpus={VERSIONS[0]: gpu},
    )
    texts = files(planned)

    on_gpu, on_cpu = (
        next(yaml.safe_load_all(texts[f"components/{pool.name}/deployment.yaml"]))["spec"]["template"]["spec"]
        for pool in planned.pools[:2]
    )

    (container,) = on_gpu["containers"]
    assert container["image"] == "inferlane:0.1.0-gpu"
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert on_gpu["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert on_gpu["nodeSelector"] == {"gpu.nvidia.com/class": "H100"}
    assert on_cpu["containers"][0]["image"] == "inferlane:0.1.0"
    assert not {"tolerations", "nodeSelector"} & on_cpu.keys()
    rendered = [text for name, text in texts.items() if "/" in name and "kustomization" not in name]
    assert faults("---\n".join([*rendered, texts["operator.yaml"]]), versions=VERSIONS) == []


def test_versions_that_ask_for_a_gpu_are_rendered_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, runtime in (("v1", '[runtime]\nproviders = ["cuda"]\n'), ("v2", "")):
        folder = tmp_path / "store" / "iris" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
        (folder / "version.toml").write_text(
            f'digest = "sha256:{"0" * 64}"\nsize_bytes = 0\nquantization = "none"\n'
            '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 1]\n'
            f'[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 1]\n{runtime}'
        )
    (tmp_path / "store" / "iris" / "model.toml").write_text('default_version = "v1"\n')
    monkeypatch.setenv("INFERLANE_MODELS_DIR", str(tmp_path / "store"))
    arguments = ["k8s", "render", "--out", str(tmp_path / "k8s"), "--image", "repo/inferlane:1"]
    options = ["--gpu", "3", "--gpu-resource", "nvidia.com/mig-1g.10gb", "--gpu-node", "zone=a"]

    result = CliRunner().invoke(command_line(), [*arguments, *options])

    assert result.exit_code == 0, result.output
    texts = {name: (tmp_path / "k8s" / f"inference-service-{name}.yaml").read_text() for name in ("v1", "v2")}
    for seen in ("repo/inferlane:1-gpu", "nvidia.com/mig-1g.10gb: '3'", "zone: a"):
        assert seen in texts["v1"]
        assert seen not in texts["v2"]


def test_a_deployment_that_sends_callbacks_has_a_process_for_them_and_no_other_has_its_secret() -> None:
    texts = files(plan(webhooks=True, webhook_allowed_networks="10.7.0.0/16"))
    text = "---\n".join(text for name, text in texts.items() if "/" in name and "kustomization" not in name)
    assert faults("---\n".join([text, texts["operator.yaml"]]), versions=VERSIONS, webhooks=True) == []
    found = [document for document in yaml.safe_load_all(text) if document]
    holders = {
        document["metadata"]["name"]: [variable["name"] for variable in container["env"]]
        for document in found
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    with_secret = {name for name, names in holders.items() if "INFERLANE_WEBHOOK_SECRET" in names}
    assert with_secret == {"inferlane-webhooks"}
    # It calls whom a client names: it gets no way into the store.
    assert not [name for name in holders["inferlane-webhooks"] if name.startswith("INFERLANE_REDIS_")]
    policies = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "NetworkPolicy"}
    (rule,) = policies["webhooks"]["egress"]
    blocks = {peer["ipBlock"]["cidr"]: peer["ipBlock"].get("except", []) for peer in rule["to"]}
    assert set(blocks) == {"0.0.0.0/0", "::/0", "10.7.0.0/16"}
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(blocks["0.0.0.0/0"])
    (store,) = policies["store"]["ingress"][0]["from"]
    assert "webhooks" not in store["podSelector"]["matchExpressions"][0]["values"]
    assert "webhooks.yaml" not in "".join(files(plan()))


def namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://prometheus", {"to": [{"podSelector": {}}]}),
        ("http://prometheus.monitoring", {"to": [namespace("monitoring")]}),
        ("http://prometheus.metrics.svc:9090", {"to": [namespace("metrics")]}),
        ("https://prometheus.metrics.svc.cluster.local/prom", {"to": [namespace("metrics")]}),
        ("https://prometheus.example.com/prom", {"ports": [{"protocol": "TCP", "port": 443}]}),
        ("http://10.1.2.3:9090", {"ports": [{"protocol": "TCP", "port": 9090}]}),
        ("http://[fd00::1]:9090", {"ports": [{"protocol": "TCP", "port": 9090}]}),
    ],
)
def test_the_router_alone_reaches_the_prometheus_of_rollouts_and_has_its_token(url: str, rule: dict[str, Any]) -> None:
    texts = files(plan(prometheus_url=url, prometheus_token="t0ken"))  # noqa: S106 - of this test
    text = "---\n".join(text for name, text in texts.items() if "/" in name and "kustomization" not in name)
    found = [document for document in yaml.safe_load_all(text) if document]
    policies = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "NetworkPolicy"}
    assert policies["prometheus"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/component": "router"}},
        "policyTypes": ["Egress"],
        "egress": [rule],
    }
    holders = {
        each["metadata"]["name"]: {entry["name"] for entry in container.get("env", ())}
        for each in found
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    with_token = {name for name, names in holders.items() if "INFERLANE_PROMETHEUS_TOKEN" in names}
    assert with_token == {"inferlane-router"}
    assert "t0ken" not in "".join(texts.values())
    assert "prometheus" not in {
        each["metadata"]["name"]
        for each in yaml.safe_load_all(whole())
        if each is not None and each["kind"] == "NetworkPolicy"
    }


def test_the_api_alone_serves_grpc_and_its_service_and_policy_let_it_in() -> None:
    found = [document for document in yaml.safe_load_all(whole()) if document]
    (service,) = [each for each in found if each["kind"] == "Service" and each["metadata"]["name"] == "inferlane-api"]
    port = {each["name"]: each for each in service["spec"]["ports"]}["grpc"]
    assert (port["port"], port["targetPort"]) == (8001, "grpc")
    served = {
        pod["metadata"]["name"]: {each["name"] for each in pod["spec"]["template"]["spec"]["containers"][0]["env"]}
        for pod in found
        if pod["kind"] == "Deployment"
    }
    assert [name for name, env in served.items() if "INFERLANE_GRPC_PORT" in env] == ["inferlane-api"]
    policies = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "NetworkPolicy"}
    (let_in,) = policies["api"]["ingress"]
    assert [each["port"] for each in let_in["ports"]] == [8000, 8001]


def test_versions_that_share_a_pool_have_one_deployment_that_wakes_for_each_of_them() -> None:
    """Guards the groups of the triggers: with the group of another version its lag is never seen."""
    settings = cluster_settings(load_settings(), namespace="n")
    shared = [("iris", "v1"), ("digits", "v1")]
    made = make_plan(
        settings,
        VERSIONS,
        namespace="n",
        image="i:1",
        pace=PACE,
        waits=Waits(),
        shared=[shared],
        others=[("other", "v1")],
    )

    assert [pool.name for pool in made.pools] == [
        "inference-service-v2",
        "inference-service-v2-quantized",
        "inference-service-shared-1",
    ]
    found = list(yaml.safe_load_all(files(made)["components/inference-service-shared-1/deployment.yaml"]))
    (container,) = found[0]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["worker", "--model", "iris/v1", "--model", "digits/v1"]
    assert found[0]["metadata"]["labels"]["app.kubernetes.io/instance"] == "worker-shared-1"
    # A second process would do the same work again, also for the moment of an upgrade.
    assert found[0]["spec"]["strategy"] == {"type": "Recreate"}
    (scaled,) = yaml.safe_load_all(files(made)["components/inference-service-shared-1/scaled-object.yaml"])
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (0, 1)
    triggers = [trigger["metadata"] for trigger in scaled["spec"]["triggers"]]
    assert [(trigger["consumerGroup"], trigger["topic"]) for trigger in triggers] == [
        (f"inferlane.{model}.{version}", f"inferlane.{model}.{version}.{lane}")
        for model, version in shared
        for lane in ("requests", "bulk")
    ]
    # Its topics are made, and its users may use them, as those of a version that is rendered elsewhere.
    text = files(made)["components/kafka/users.yaml"]
    assert all(f"name: inferlane.{name}.v1.requests" in text for name in ("digits", "iris", "other"))
    topics = files(made)["components/kafka/topics.yaml"]
    assert "inferlane.digits.v1.requests" in topics
    assert "inferlane.other.v1.requests" not in topics


def rendered(tmp_path: Path, *argv: str) -> Any:
    return CliRunner().invoke(command_line(), ["k8s", "render", "--out", str(tmp_path), *argv])


def test_users_are_printed_with_their_rights_for_every_version_of_the_store(tmp_path: Path) -> None:
    """Guards what `kubectl apply` makes of them: an object of a user holds all of its rights."""
    ran = rendered(tmp_path, "--users")

    assert ran.exit_code == 0, ran.output
    users = list(yaml.safe_load_all(ran.output))
    assert {each["kind"] for each in users} == {"KafkaUser"}
    (worker,) = (each for each in users if each["metadata"]["name"] == "inferlane-worker")
    names = {acl["resource"]["name"] for acl in worker["spec"]["authorization"]["acls"]}
    assert {"inferlane.digits.v1", "inferlane.iris.v1", "inferlane.iris.v2"} <= names


def test_users_of_a_broker_that_is_not_strimzis_are_no_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLANE_KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")

    assert "kafka.example:9092 is not Strimzi's" in str(rendered(tmp_path, "--users").exception)


def test_versions_that_are_not_rendered_are_named_where_users_are_replaced(tmp_path: Path) -> None:
    ran = rendered(tmp_path, "--version", "iris/v1", "--also", "digits/v1")

    assert ran.exit_code == 0, ran.output
    said = " ".join(ran.output.split())
    assert "no rights for digits/v2-quantized, iris/v2, iris/v2-quantized. For each of them that has a pool" in said
    assert "inferlane.digits.v1.bulk" in (tmp_path / "components" / "kafka" / "users.yaml").read_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--share", "iris/v1"], "names one version; name two or more"),
        (["--share", "iris/v1,iris/v1"], "named twice"),
        (["--share", "iris/v1,iris/v2", "--share", "iris/v2,digits/v1"], "names iris/v2 twice; name each version once"),
        (["--share", "iris/v1,iris/v2", "--helm"], "render shared pools without --helm"),
        (["--share", "iris/v1,other/v1"], "other"),
    ],
)
def test_a_pool_that_cannot_be_shared_is_refused_and_writes_nothing(tmp_path: Path, argv: list[str], says: str) -> None:
    ran = rendered(tmp_path, *argv)

    assert ran.exit_code != 0
    assert says in f"{ran.output} {ran.exception}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        *(("--namespace", name) for name in ("", "A_b", "a" * 64, "-a", "a.b")),
        *(("--image", name) for name in ("", "foo bar: baz", "Foo", "a/", "a:b:c", "a" * 513, "a@sha256:1", "a\n")),
        ("--gpu-image", ""),
        *(("--gpu-resource", name) for name in ("", "gpu", "nvidia.com/", "nvidia.com/a b")),
        *(("--gpu-node", name) for name in ("zone", "=a", "zone=a b", f"zone={'a' * 64}", "a_b/c=d")),
    ],
)
def test_names_that_kubernetes_refuses_are_refused_with_the_rule(tmp_path: Path, option: tuple[str, str]) -> None:
    """They were rendered, and `kubectl apply` or the kubelet refused them later."""
    ran = rendered(tmp_path, *option)

    assert isinstance(ran.exception, ConfigurationError)
    assert str(ran.exception).startswith(f"{option[0]} ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "image", ["inferlane", "localhost:5000/a/b-c_d:V1.0", "[::1]:5000/a", f"a.b.c/d@sha256:{'0' * 64}", "a--b/c__d"]
)
def test_every_form_of_an_image_is_taken(image: str) -> None:
    check_image("--image", image)
    assert label_of("example.com/zone=") == ("example.com/zone", "")
