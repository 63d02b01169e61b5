"""Every query of every dashboard and rule has data, on a real stack under load."""

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from dashboards.generator.page_files import pages
from dashboards.generator.panels import RECORDED, names_in
from inferlane.runtime.config import load_settings
from router.rollouts.outside_checks import MetricReading
from router.rollouts.outside_reader import PrometheusReader
from tests.observability._prometheus import Prometheus
from tests.support.keyed_stack import KeyedStack

_DATA_WITHIN_S = 150
_POLL_S = 2
# Why a query has no data when all is well, and none on one machine.
EMPTY = {
    ("inferlane-queue", "What KEDA wants"): "there is no KEDA here",
    ("inferlane-versions", "Predicted values"): "the samples are classifiers",
}
PANELS = [
    pytest.param(query.expr, id=f"{page.uid}: {panel.title}, {query.legend}")
    for page in pages()
    for panel in page.panels
    for query in panel.queries
    if (page.uid, panel.title) not in EMPTY
]


def until(holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + _DATA_WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, "still nothing"
        time.sleep(_POLL_S)


def as_grafana_asks(expr: str) -> str:
    return expr.replace("$__rate_interval", "30s").replace("$model", ".*")


def test_every_process_of_the_target_list_is_up(prometheus: Prometheus, keyed_stack: KeyedStack) -> None:
    written = json.loads((keyed_stack.folder / ".inferlane" / "prometheus-targets.json").read_text())
    processes = {group["labels"]["process"] for group in written}
    assert {"api", "router", "worker-iris-v1-1"} <= processes

    def are_up() -> bool:
        found = prometheus.targets()
        return {one["labels"]["process"] for one in found if one["health"] == "up"} == processes

    until(are_up)


@pytest.mark.parametrize("expr", PANELS)
def test_a_panel_has_data(expr: str, prometheus: Prometheus) -> None:
    until(lambda: prometheus.values(as_grafana_asks(expr)))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recording_rule_has_data(name: str, prometheus: Prometheus) -> None:
    until(lambda: prometheus.values(name))


def test_every_rule_is_evaluated_and_every_name_in_an_alert_has_data(prometheus: Prometheus) -> None:
    until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
    alerts = [rule for rule in prometheus.rules() if rule["type"] == "alerting"]
    assert alerts
    for name in {name for alert in alerts for name in names_in(alert["query"])}:
        until(lambda name=name: prometheus.values(f"count({name})"))


def test_the_check_of_a_rollout_reads_a_value_and_says_why_there_is_none(prometheus: Prometheus) -> None:
    reader = PrometheusReader(load_settings(prometheus_url=f"http://127.0.0.1:{prometheus.port}").rollouts)

    def read(query: str) -> MetricReading:
        return asyncio.run(reader.read(query))

    until(lambda: (read("count(up)").value or 0) >= 1)
    assert read("absent_metric").missing == "the query has no series"
    assert "series, it must have one" in read("up").missing
    assert read("vector(0) / 0").missing == "the value of the query is nan"
    assert "refused the query" in read("sum(").missing


def test_what_is_called_empty_is(prometheus: Prometheus) -> None:
    found = {
        (page.uid, panel.title)
        for page in pages()
        for panel in page.panels
        if (page.uid, panel.title) in EMPTY
        and not any(prometheus.values(as_grafana_asks(query.expr)) for query in panel.queries)
    }
    assert found == set(EMPTY)
