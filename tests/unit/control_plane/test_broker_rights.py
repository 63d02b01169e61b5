"""The plan of the rights: what must hold for any versions, and that the docs show it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from control_plane.broker_acls import Operation, Resource, Right, Service, rights_by_service, user_name
from control_plane.cli.console import out
from control_plane.cli.main import command_line
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.service_settings import WebhookSettings
from inferlane.runtime.settings import KafkaSettings

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True)
VERSIONS = st.lists(st.tuples(NAMES, NAMES), unique=True, max_size=4)


def may(rights: tuple[Right, ...], operation: Operation) -> set[str]:
    return {right.name for right in rights if right.resource is Resource.TOPIC and operation in right.operations}


@given(VERSIONS)
def test_every_topic_has_who_writes_and_who_reads_it_and_nobody_may_what_is_not_of_the_stack(
    versions: list[tuple[str, str]],
) -> None:
    names = Names("stack")
    rights = rights_by_service(names, versions)
    topics = {spec.name for spec in topic_specs(KafkaSettings(), names, WebhookSettings(enabled=True), versions)}
    services = [rights[service] for service in Service]
    assert set().union(*(may(each, Operation.WRITE) for each in services)) == topics
    assert set().union(*(may(each, Operation.READ) for each in services)) == topics
    assert set().union(*(may(each, Operation.CREATE) for each in services)) == topics
    groups = {names.worker_group(*version) for version in versions}
    groups |= {names.router_group, names.outcomes_group, names.feedback_group, names.dashboard_group}
    groups |= {names.webhooks_group(topic) for topic in topics if topic.startswith(names.callbacks)}
    named = {right.name for each in services for right in each if right.resource is Resource.GROUP}
    assert named == groups


@given(VERSIONS)
def test_who_could_turn_traffic_or_forge_answers_is_who_must(versions: list[tuple[str, str]]) -> None:
    names = Names()
    rights = rights_by_service(names, versions)

    def writers(topic: str) -> set[Service]:
        return {service for service in Service if topic in may(rights[service], Operation.WRITE)}

    assert writers(names.splits) == writers(names.rollouts) == {Service.API, Service.ROUTER}
    assert writers(names.catalog) == {Service.OPERATOR}
    assert writers(names.ingress[Lane.REQUESTS]) == {Service.API, Service.OPERATOR}
    assert writers(names.outcomes) == {Service.WORKER}
    for model, version in versions:
        assert writers(names.work_topic(model, version, Lane.REQUESTS)) == {
            Service.ROUTER,
            Service.WORKER,
            Service.OPERATOR,
        }
    # Who writes here lets our process call a URL and signs what it says.
    assert writers(names.callbacks) == {Service.ROUTER, Service.WORKER, Service.OPERATOR}
    assert writers(names.callback_retries(1)) == {Service.WEBHOOKS}
    assert names.dead_letters not in may(rights[Service.API], Operation.READ)
    looks = {operation for right in rights[Service.AUTOSCALER] for operation in right.operations}
    assert looks == {Operation.DESCRIBE}


def test_the_docs_show_each_right_of_the_plan() -> None:
    rows = {
        f"| `{user_name(Names(), service)}` | {right.resource} | `{right.name}` | {', '.join(right.operations)} |"
        for service, rights in rights_by_service(Names(), [("MODEL", "VERSION")]).items()
        for right in rights
    }
    shown = set(re.findall(r"^\| `inferlane-\w+` \| .*\|$", SECURITY.read_text(), flags=re.MULTILINE))
    assert shown == rows


def test_topics_and_rights_are_listed_without_a_models_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    # A narrow terminal breaks a name in two.
    monkeypatch.setattr(out, "_width", 200)
    for group in ("topics", "acls"):
        environment = {"INFERLANE_MODELS_DIR": "/nowhere"}
        asked = [group, "list", "--version", "digits/v7", "--version", "v8"]
        ran = CliRunner().invoke(command_line(), asked, env=environment)
        assert ran.exit_code == 0, ran.output
        assert "inferlane.digits.v7.requests" in ran.output
        assert "inferlane.iris.v8.bulk" in ran.output
        for wrong in (["a/b/c"], ["/v1"], ["v1", "iris/v1"]):
            named = [part for name in wrong for part in ("--version", name)]
            assert CliRunner().invoke(command_line(), [group, "list", *named], env=environment).exit_code == 1
        assert "--version MODEL/VERSION" in str(
            CliRunner().invoke(command_line(), [group, "list"], env=environment).exception
        )
