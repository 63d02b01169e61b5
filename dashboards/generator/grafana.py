"""From a page to Grafana's document."""

from typing import Any

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import DataSourceRef, StackingMode

from dashboards.generator.page import Page, Panel, Query, Shape
from dashboards.generator.promql import MODEL_VARIABLE
from inferlane.runtime.metrics.declaring import metric_of
from inferlane.runtime.metrics.router import SPLIT_WEIGHT

# The uid in dashboards/grafana/provisioning/datasources.
SOURCE = DataSourceRef(type_val="prometheus", uid="inferlane-prometheus")
_NUMBER_HEIGHT, _CHART_HEIGHT = 4, 8
_STACK_OPACITY, _LINE_OPACITY = 40, 8


def build(page: Page) -> models.Dashboard:
    """The dashboard that Grafana imports."""
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
