"""docker-compose.yml says what the code says: settings, versions, ports, and time to drain."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferlane.config import Settings
from inferlane.kubernetes.pods import ROUTER_STOP_MARGIN_S, USER_ID
from models.samples import SAMPLES

REPOSITORY = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "inferlane" in service["image"]}
IRIS = next(sample for sample in SAMPLES if sample.name == "iris")


def test_every_version_of_the_default_model_has_a_pool() -> None:
    commands = [service["command"] for name, service in SERVICES.items() if name.startswith("worker-")]
    assert commands == [["worker", "--model", "iris", "--version", recipe.version] for recipe in IRIS.recipes]


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_known_settings_and_time_to_drain(name: str) -> None:
    service = OURS[name]
    known = {f"INFERLANE_{field.upper()}" for field in Settings.model_fields}
    assert service["environment"].keys() <= known
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s >= Settings.model_fields["drain_deadline_s"].default + ROUTER_STOP_MARGIN_S


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_limited_restarted_and_its_image_has_a_version(name: str) -> None:
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["logging"]["options"]["max-size"]
    # Topics are made once.
    assert service["restart"] == ("no" if name == "topics" else "unless-stopped")
    assert re.search(r":-?[\w./-]+:[\w.-]*\d[\w.-]*}$", service["image"])


@pytest.mark.parametrize("name", ["kafka", "valkey"])
def test_what_keeps_data_has_more_time_to_close_it_than_an_engine_gives_by_itself(name: str) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 10


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_prometheus_scrapes_each_process_that_serves() -> None:
    targets = json.loads((REPOSITORY / "dashboards" / "compose" / "targets.json").read_text())
    hosts = {target.split(":")[0] for group in targets for target in group["targets"]}
    assert hosts == OURS.keys() - {"topics"}


def test_the_image_runs_as_the_user_that_kubernetes_names() -> None:
    assert f"USER {USER_ID}:{USER_ID}" in (REPOSITORY / "Dockerfile").read_text()


def test_the_lock_of_the_image_is_part_of_the_lock_of_the_project() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", (REPOSITORY / name).read_text(), flags=re.MULTILINE))

    assert pins("requirements-image.lock") <= pins("requirements.lock")
