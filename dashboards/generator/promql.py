"""PromQL of our metrics: names come from the catalogue, so that none can be misspelled."""

import re

from inferlane.runtime.metrics.declaring import Collector, metric_of

MODEL_VARIABLE = "model"
# What the variable at the top of each dashboard selects.
CHOSEN = f'model=~"${MODEL_VARIABLE}"'
_NAME = re.compile(r"(?<![\w:])(?:up(?={)|(?:inferlane[_:]|process_|kube_|keda_)[\w:]+)")
_WINDOW = "$__rate_interval"


def names_in(expr: str) -> frozenset[str]:
    """The metrics that an expression names: ours, those of our rules, and those of families that we ask of others."""
    return frozenset(_NAME.findall(expr))


def name_of(collector: Collector) -> str:
    """The name of a metric."""
    return metric_of(collector).name


def value(collector: Collector, *, by: str = "", where: str = "", op: str = "sum") -> str:
    """A gauge, over processes. `by` names labels with commas, `where` is a matcher list without braces."""
    return f"{op}{_by(by)} ({name_of(collector)}{_braces(where)})"


def rate(collector: Collector, *, by: str = "", where: str = "", part: str = "") -> str:
    """A counter's increase a second; `part` is `_sum` or `_count` of a histogram."""
    return f"sum{_by(by)} (rate({name_of(collector)}{part}{_braces(where)}[{_WINDOW}]))"


def increase(collector: Collector, window: str, *, by: str = "", where: str = "") -> str:
    """A counter's increase over a window."""
    return f"sum{_by(by)} (increase({name_of(collector)}{_braces(where)}[{window}]))"


def mean(histogram: Collector, *, by: str = "", where: str = "") -> str:
    """The mean of a histogram's values."""
    total = rate(histogram, by=by, where=where, part="_sum")
    return f"{total} / {rate(histogram, by=by, where=where, part='_count')}"


def quantile(rank: float, histogram: Collector, *, by: str = "", where: str = "") -> str:
    """A quantile of a histogram's values, over all processes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({rank}, {rate(histogram, by=labels, where=where, part='_bucket')})"


def of_workers(metric: str, size: Collector) -> str:
    """A process metric of the workers with the model and version that each serves; `size` is a gauge that has both."""
    return f"{metric} * on (instance) group_left (model, version) ({name_of(size)}{_braces(CHOSEN)} ^ 0)"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _braces(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""
