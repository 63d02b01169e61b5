"""A dashboard as plain data: PromQL queries and the panels that show them."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import DataSourceRef, StackingMode

from inferlane.runtime.metrics.instruments import Collector, metric_of
from inferlane.runtime.metrics.router_metrics import SPLIT_WEIGHT


class Shape(StrEnum):
    """How a panel shows its series."""

    LINES = "lines"
    STACK = "stack"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the legend of its series, with `{{label}}` placeholders."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `about` explains how to read it, `unit` is Grafana's id, `width` is of 24 columns."""

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    shape: Shape = Shape.LINES
    width: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    about: str
    sections: tuple[Section, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels."""
        return tuple(panel for section in self.sections for panel in section.panels)


CPU_S = "process_cpu_seconds_total"
MEMORY_BYTES = "process_resident_memory_bytes"
"""prometheus_client's own, of each process of ours."""

UP = "up"
"""Prometheus' own metric of each target."""

KEDA_WISH = "kube_horizontalpodautoscaler_status_desired_replicas"
"""kube-state-metrics: the replicas that KEDA's autoscaler wants."""

KUBE_METRICS = frozenset({KEDA_WISH})
FOREIGN = frozenset({CPU_S, MEMORY_BYTES, UP, *KUBE_METRICS})

ERROR_RATIO = "inferlane:requests:error_ratio5m"
P95_S = "inferlane:total_seconds:p95_5m"
BUSY_RATIO = "inferlane:worker_busy:ratio5m"
WORKERS = "inferlane:pool_workers:count"
LAG = "inferlane:pool_lag_records:max"
INGRESS_LAG = "inferlane:ingress_lag_records:max"
WEIGHT = "inferlane:split_weight:max"
STABLE = "inferlane:split_weight:stable"
CANARY = "inferlane:split_weight:canary"
INCREASE = "inferlane:requests:increase10m"
RECORDED = frozenset({ERROR_RATIO, P95_S, BUSY_RATIO, WORKERS, LAG, INGRESS_LAG, WEIGHT, STABLE, CANARY, INCREASE})
"""The recorded metrics of dashboards/prometheus/rules/recording.yml."""


# The labels of a version, and the legend of its series.
POOL = "model, version"
POOL_NAME = "{{model}}/{{version}}"

MODEL_VARIABLE = "model"
# What the variable at the top of each dashboard selects.
CHOSEN = f'model=~"${MODEL_VARIABLE}"'
_NAME = re.compile(r"(?<![\w:])(?:up(?={)|(?:inferlane[_:]|process_|kube_|keda_)[\w:]+)")
_WINDOW = "$__rate_interval"


def names_in(expr: str) -> frozenset[str]:
    """Return the metrics in an expression: ours, those of our recording rules, and the known ones of others."""
    return frozenset(_NAME.findall(expr))


def name_of(collector: Collector) -> str:
    """The name of a metric."""
    return metric_of(collector).name


def value(collector: Collector, *, by: str = "", where: str = "", op: str = "sum") -> str:
    """Aggregate a gauge over processes. `by` names labels with commas, `where` is a matcher list without braces."""
    return f"{op}{_by(by)} ({name_of(collector)}{_braces(where)})"


def rate(collector: Collector, *, by: str = "", where: str = "", part: str = "") -> str:
    """Return a counter's rate per second; `part` is `_sum` or `_count` of a histogram."""
    return f"sum{_by(by)} (rate({name_of(collector)}{part}{_braces(where)}[{_WINDOW}]))"


def increase(collector: Collector, window: str, *, by: str = "", where: str = "") -> str:
    """Return a counter's increase over a window."""
    return f"sum{_by(by)} (increase({name_of(collector)}{_braces(where)}[{window}]))"


def mean(histogram: Collector, *, by: str = "", where: str = "") -> str:
    """Return the mean of a histogram."""
    total = rate(histogram, by=by, where=where, part="_sum")
    return f"{total} / {rate(histogram, by=by, where=where, part='_count')}"


def quantile(rank: float, histogram: Collector, *, by: str = "", where: str = "") -> str:
    """Return a quantile of a histogram, over all processes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({rank}, {rate(histogram, by=labels, where=where, part='_bucket')})"


def quantiles(histogram: Collector, *ranks: float, where: str) -> tuple[Query, ...]:
    """Return quantiles of a histogram for each version, a query for each rank."""
    return tuple(
        Query(quantile(rank, histogram, by=POOL, where=where), f"{POOL_NAME} p{rank * 100:g}") for rank in ranks
    )


def process_panels(component: str, *, about_cpu: str) -> tuple[Panel, Panel]:
    """Return CPU and memory of each process of a component."""
    of_component = f'{{component="{component}"}}'
    used = f"rate({CPU_S}{of_component}[{_WINDOW}])"
    return (
        Panel(
            title="CPU",
            about=about_cpu,
            unit="short",
            queries=(Query(f"sum by (process) ({used})", "{{process}}"),),
        ),
        Panel(
            title="Memory",
            about="Resident.",
            unit="bytes",
            queries=(Query(f"sum by (process) ({MEMORY_BYTES}{of_component})", "{{process}}"),),
        ),
    )


def of_workers(metric: str, size: Collector) -> str:
    """Join a process metric of the workers with each version that the process serves, which the gauge `size` has."""
    return f"({name_of(size)}{_braces(CHOSEN)} ^ 0) * on (instance) group_left {metric}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _braces(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""


# The uid in dashboards/grafana/provisioning/datasources.
SOURCE = DataSourceRef(type_val="prometheus", uid="inferlane-prometheus")
_NUMBER_HEIGHT, _CHART_HEIGHT = 4, 8
_STACK_OPACITY, _LINE_OPACITY = 40, 8


def build(page: Page) -> models.Dashboard:
    """Build the dashboard that Grafana imports."""
    board = (
        Dashboard(page.title)
        .uid(page.uid)
        .description(page.about)
        .tags(["inferlane"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(_model_variable())
    )
    for section in page.sections:
        board.with_row(Row(section.title))
        for panel in section.panels:
            board.with_panel(_panel(panel))
    return board.build()


def _model_variable() -> QueryVariable:
    return (
        QueryVariable(MODEL_VARIABLE)
        .label("Model")
        .datasource(SOURCE)
        .query(f"label_values({metric_of(SPLIT_WEIGHT).name}, model)")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all"))
    )


def _panel(panel: Panel) -> Any:
    chart = _number() if panel.shape is Shape.NUMBER else _lines(panel.shape)
    chart.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit).span(panel.width).min(0)
    for number, query in enumerate(panel.queries):
        chart.with_target(_target(query, chr(ord("A") + number)))
    return chart


def _number() -> stat.Panel:
    return stat.Panel().height(_NUMBER_HEIGHT).no_value("0")


def _lines(shape: Shape) -> timeseries.Panel:
    is_stack = shape is Shape.STACK
    chart = timeseries.Panel().height(_CHART_HEIGHT)
    chart.fill_opacity(_STACK_OPACITY if is_stack else _LINE_OPACITY)
    if is_stack:
        chart.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return chart


def _target(query: Query, ref_id: str) -> Dataquery:
    return Dataquery().datasource(SOURCE).expr(query.expr).legend_format(query.legend).ref_id(ref_id).range()
