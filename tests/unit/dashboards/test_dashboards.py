"""The committed dashboards and rules: as the code makes them, and of names that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import Gauge

from dashboards.generator.page_files import FOLDER, documents, pages
from dashboards.generator.panels import FOREIGN, RECORDED, Page, names_in
from inferlane.runtime.metrics import router_metrics
from inferlane.runtime.metrics.instruments import every_metric, metric_of

REPOSITORY = Path(__file__).parents[3]
PROMETHEUS = REPOSITORY / "dashboards" / "prometheus"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
OURS = {series for metric in every_metric() for series in metric.series}


def rules(name: str) -> Iterator[dict[str, object]]:
    for group in yaml.safe_load((PROMETHEUS / "rules" / name).read_text())["groups"]:
        yield from group["rules"]


ALERTS = {str(rule["alert"]): rule for rule in rules("alerts.yml")}
QUERIES = {
    f"{page.uid}: {panel.title}, {number}": query.expr
    for page in pages()
    for panel in page.panels
    for number, query in enumerate(panel.queries)
}
RULES = {
    str(rule.get("alert") or rule["record"]): str(rule["expr"])
    for name in ("alerts.yml", "recording.yml")
    for rule in rules(name)
}


def test_the_committed_files_are_what_the_code_makes() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == documents(), "write them with: python -m dashboards.generator"


@pytest.mark.parametrize("where", QUERIES | RULES)
def test_every_name_in_a_query_exists(where: str) -> None:
    named = names_in((QUERIES | RULES)[where])
    assert named
    assert named <= OURS | FOREIGN | RECORDED


ROUTERS_GAUGES = {metric_of(each).name for each in vars(router_metrics).values() if isinstance(each, Gauge)}


@pytest.mark.parametrize("where", QUERIES | RULES)
def test_a_gauge_that_every_router_has_is_never_summed(where: str) -> None:
    """Each router sees the whole deployment: with two of them a sum is twice what there is."""
    summed = re.findall(r"(?:sum|avg|count)[^()]*(?:\([^()]*\) *)?\((inferlane_\w+)", (QUERIES | RULES)[where])
    assert ROUTERS_GAUGES
    assert not ROUTERS_GAUGES & set(summed)


def test_the_rules_record_what_the_dashboards_ask() -> None:
    assert {str(rule["record"]) for rule in rules("recording.yml")} >= RECORDED


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.uid)
def test_panels_have_a_title_of_their_own_and_say_what_they_show(page: Page) -> None:
    titles = [panel.title for panel in page.panels]
    assert len(set(titles)) == len(titles)
    assert all(panel.about.endswith((".", "`")) for panel in page.panels)


@pytest.mark.parametrize("name", documents())
def test_panels_of_a_dashboard_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(documents()[name])["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_runbook_that_its_annotation_names(alert: str) -> None:
    path = RUNBOOKS / f"{alert}.md"
    assert ALERTS[alert]["annotations"]["runbook"] == str(path.relative_to(REPOSITORY))
    assert path.read_text().startswith(f"# {alert}\n")


def test_every_runbook_is_of_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)


def test_every_alert_is_tested_to_fire_and_to_stay_silent() -> None:
    cases = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text())["tests"]
    tested = [test for case in cases for test in case["alert_rule_test"]]
    assert {test["alertname"] for test in tested if test["exp_alerts"]} == set(ALERTS)
    assert {test["alertname"] for test in tested if not test["exp_alerts"]} == set(ALERTS)
