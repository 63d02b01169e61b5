"""The first page: is all well, what flows, where the time goes."""

from dashboards.generator import foreign
from dashboards.generator.page import Page, Panel, Query, Section, Shape
from dashboards.generator.promql import CHOSEN, increase, mean, quantile, rate, value
from inferlane.runtime.metrics import api, consuming, router, worker

_WAITED_FOR = f'{CHOSEN}, lane="requests"'
_SERVER_FAULT = f'{CHOSEN}, status=~"5.."'
_HOPS = (
    ("API to router", router.INGRESS_WAIT),
    ("router to worker", worker.TOPIC_WAIT),
    ("wait for a batch", worker.BATCH_WAIT),
    ("inference", worker.INFERENCE),
    ("store", worker.STORE),
)


def _number(title: str, about: str, unit: str, expr: str) -> Panel:
    return Panel(title=title, about=about, unit=unit, queries=(Query(expr, title),), shape=Shape.NUMBER, width=4)


PAGE = Page(
    uid="inferlane-overview",
    title="Inferlane: overview",
    about="Is all well, what flows, and where the time goes.",
    sections=(
        Section(
            title="Now",
            panels=(
                _number("Answers a second", "Predict calls answered.", "reqps", rate(api.ANSWERS, where=CHOSEN)),
                _number(
                    "Answers 5xx",
                    "Share of the answers that are our fault; 503 is backpressure.",
                    "percentunit",
                    f"({rate(api.ANSWERS, where=_SERVER_FAULT)} or vector(0)) / {rate(api.ANSWERS, where=CHOSEN)}",
                ),
                _number("p95", "As clients see it.", "s", quantile(0.95, api.LATENCY, where=CHOSEN)),
                _number("Waiting records", "In all topics.", "short", value(router.POOL_LAG, where=CHOSEN)),
                _number(
                    "Oldest waiting",
                    "Grows without end: a pool or the router stands still.",
                    "s",
                    value(router.POOL_AGE, where=CHOSEN, op="max"),
                ),
                _number(
                    "Dead letters, 1 h",
                    "Look at them with `inferlane dead-letters list`.",
                    "short",
                    increase(consuming.DEAD_LETTERS, "1h"),
                ),
            ),
        ),
        Section(
            title="Flow",
            panels=(
                Panel(
                    title="Through the hops",
                    about="Lines that part show where records pile up.",
                    unit="reqps",
                    queries=(
                        Query(rate(api.ACCEPTED, where=CHOSEN), "accepted by the API"),
                        Query(rate(router.ROUTED, where=CHOSEN), "routed"),
                        Query(rate(worker.REQUESTS, where=CHOSEN), "ended by workers"),
                    ),
                ),
                Panel(
                    title="Where the time goes",
                    about="Mean of each hop for waiting clients. The tallest layer is what to look at.",
                    unit="s",
                    queries=tuple(Query(mean(hop, where=_WAITED_FOR), name) for name, hop in _HOPS),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="Answers by status",
                    about="What clients got.",
                    unit="reqps",
                    queries=(Query(rate(api.ANSWERS, by="status", where=CHOSEN), "{{status}}"),),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="What failed and why",
                    about="Requests that did not succeed, by version and error code.",
                    unit="reqps",
                    queries=(
                        Query(
                            rate(
                                worker.REQUESTS,
                                by="model, version, reason",
                                where=f'{CHOSEN}, status!="SUCCEEDED"',
                            ),
                            "{{model}}/{{version}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="Split: weights against what came",
                    about="Pins and sticky keys make the two differ.",
                    unit="percentunit",
                    queries=(
                        Query(
                            value(router.SPLIT_WEIGHT, by="model, version", where=CHOSEN, op="max"),
                            "{{model}}/{{version}} weight",
                        ),
                        Query(
                            f"{rate(router.ROUTED, by='model, version', where=CHOSEN)} / on (model) group_left "
                            f"{rate(router.ROUTED, by='model', where=CHOSEN)}",
                            "{{model}}/{{version}} share",
                        ),
                    ),
                ),
                Panel(
                    title="Backlog",
                    about="Records that wait for each version. Growing: its pool is too small, or stands still.",
                    unit="short",
                    queries=(Query(f"sum by (model, version) ({foreign.LAG}{{{CHOSEN}}})", "{{model}}/{{version}}"),),
                ),
            ),
        ),
    ),
)
