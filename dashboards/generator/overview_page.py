"""The overview page: health, throughput and latency by hop."""

from dashboards.generator.panels import (
    BUSY_RATIO,
    CHOSEN,
    KEDA_WISH,
    LAG,
    POOL,
    POOL_NAME,
    WORKERS,
    Page,
    Panel,
    Query,
    Section,
    Shape,
    increase,
    mean,
    quantile,
    rate,
    value,
)
from inferlane.runtime.metrics import api_metrics, consumer_metrics, router_metrics, worker_metrics

_WAITED_FOR = f'{CHOSEN}, lane="requests"'
_SERVER_FAULT = f'{CHOSEN}, status=~"5.."'
_HOPS = (
    ("API to router", router_metrics.INGRESS_WAIT),
    ("router to worker", worker_metrics.TOPIC_WAIT),
    ("wait for a batch", worker_metrics.BATCH_WAIT),
    ("inference", worker_metrics.INFERENCE),
    ("store", worker_metrics.STORE),
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
                _number(
                    "Answers a second", "Predict calls answered.", "reqps", rate(api_metrics.ANSWERS, where=CHOSEN)
                ),
                _number(
                    "Answers 5xx",
                    "Share of the answers that are our fault; 503 is backpressure.",
                    "percentunit",
                    f"({rate(api_metrics.ANSWERS, where=_SERVER_FAULT)} or vector(0)) / "
                    f"{rate(api_metrics.ANSWERS, where=CHOSEN)}",
                ),
                _number("p95", "As clients see it.", "s", quantile(0.95, api_metrics.LATENCY, where=CHOSEN)),
                _number("Waiting records", "In all topics.", "short", f"sum ({LAG}{{{CHOSEN}}})"),
                _number(
                    "Oldest waiting",
                    "Grows without end: a pool or the router stands still.",
                    "s",
                    value(router_metrics.POOL_AGE, where=CHOSEN, op="max"),
                ),
                _number(
                    "Dead letters, 1 h",
                    "Look at them with `inferlane dead-letters list`.",
                    "short",
                    increase(consumer_metrics.DEAD_LETTERS, "1h"),
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
                        Query(rate(api_metrics.ACCEPTED, where=CHOSEN), "accepted by the API"),
                        Query(rate(router_metrics.ROUTED, where=CHOSEN), "routed"),
                        Query(rate(worker_metrics.REQUESTS, where=CHOSEN), "ended by workers"),
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
                    queries=(Query(rate(api_metrics.ANSWERS, by="status", where=CHOSEN), "{{status}}"),),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="What failed and why",
                    about="Requests that did not succeed, by version and error code.",
                    unit="reqps",
                    queries=(
                        Query(
                            rate(
                                worker_metrics.REQUESTS,
                                by=f"{POOL}, reason",
                                where=f'{CHOSEN}, status!="SUCCEEDED"',
                            ),
                            f"{POOL_NAME} {{{{reason}}}}",
                        ),
                    ),
                ),
                Panel(
                    title="Split: weights against what came",
                    about="Pins and sticky keys make the two differ.",
                    unit="percentunit",
                    queries=(
                        Query(
                            value(router_metrics.SPLIT_WEIGHT, by=POOL, where=CHOSEN, op="max"),
                            f"{POOL_NAME} weight",
                        ),
                        Query(
                            f"{rate(router_metrics.ROUTED, by=POOL, where=CHOSEN)} / on (model) group_left "
                            f"{rate(router_metrics.ROUTED, by='model', where=CHOSEN)}",
                            f"{POOL_NAME} share",
                        ),
                    ),
                ),
                Panel(
                    title="Backlog",
                    about="Records that wait for each version. Growing: its pool is too small, or stands still.",
                    unit="short",
                    queries=(Query(f"sum by ({POOL}) ({LAG}{{{CHOSEN}}})", POOL_NAME),),
                ),
            ),
        ),
    ),
)


QUEUE = Page(
    uid="inferlane-queue",
    title="Inferlane: queue and scaling",
    about="What waits, for how long, and whether the pools grow with it.",
    sections=(
        Section(
            title="What waits",
            panels=(
                Panel(
                    title="Lag of each pool",
                    about="Records in a version's topic that its workers have not committed.",
                    unit="short",
                    queries=(
                        Query(
                            value(router_metrics.POOL_LAG, by=f"{POOL}, lane", where=CHOSEN, op="max"),
                            f"{POOL_NAME} {{{{lane}}}}",
                        ),
                    ),
                ),
                Panel(
                    title="Lag of the router",
                    about="Records that nobody has routed.",
                    unit="short",
                    queries=(Query(value(router_metrics.INGRESS_LAG, by="lane", op="max"), "{{lane}}"),),
                ),
                Panel(
                    title="Oldest waiting record",
                    about="At least so old. A straight line up means that nothing moves.",
                    unit="s",
                    queries=(
                        Query(
                            value(router_metrics.POOL_AGE, by=f"{POOL}, lane", where=CHOSEN, op="max"),
                            f"{POOL_NAME} {{{{lane}}}}",
                        ),
                        Query(value(router_metrics.INGRESS_AGE, by="lane", op="max"), "router {{lane}}"),
                    ),
                ),
                Panel(
                    title="In and out",
                    about="Routed to a version against ended by it: the gap is what the backlog grows by.",
                    unit="reqps",
                    queries=(
                        Query(rate(router_metrics.ROUTED, by=POOL, where=CHOSEN), f"{POOL_NAME} in"),
                        Query(rate(worker_metrics.REQUESTS, by=POOL, where=CHOSEN), f"{POOL_NAME} out"),
                    ),
                ),
            ),
        ),
        Section(
            title="Scaling",
            panels=(
                Panel(
                    title="Workers against the most that can have work",
                    about="At its maximum with a growing backlog, a pool needs partitions or a faster model.",
                    unit="short",
                    queries=(
                        Query(f"{WORKERS}{{{CHOSEN}}}", f"{POOL_NAME} workers"),
                        Query(value(router_metrics.POOL_MAX, by=POOL, where=CHOSEN, op="max"), f"{POOL_NAME} maximum"),
                    ),
                ),
                Panel(
                    title="What KEDA wants",
                    about="Replicas that the autoscaler asks for; on Kubernetes, from kube-state-metrics.",
                    unit="short",
                    queries=(
                        Query(
                            f"max by (namespace, horizontalpodautoscaler) ({KEDA_WISH})",
                            "{{horizontalpodautoscaler}}",
                        ),
                    ),
                ),
                Panel(
                    title="Busy ratio",
                    about="Share of the time that a worker infers: near 1 with a backlog, the pool is the bottleneck.",
                    unit="percentunit",
                    queries=(Query(f"{BUSY_RATIO}{{{CHOSEN}}}", POOL_NAME),),
                ),
                Panel(
                    title="Service rate",
                    about="Records a second that a pool finishes while it has work: what the API counts on.",
                    unit="reqps",
                    queries=(Query(value(api_metrics.SERVICE_RATE, by=POOL, where=CHOSEN, op="max"), POOL_NAME),),
                ),
            ),
        ),
        Section(
            title="What went wrong",
            panels=(
                Panel(
                    title="Dead letters, last 10 minutes",
                    about="By version and reason; `inferlane dead-letters list` has each.",
                    unit="short",
                    queries=(
                        Query(
                            increase(consumer_metrics.DEAD_LETTERS, "10m", by=f"{POOL}, reason"),
                            f"{POOL_NAME} {{{{reason}}}}",
                        ),
                    ),
                ),
                Panel(
                    title="Rebalances, last 10 minutes",
                    about="Each one stops a whole group for a moment. Many without scaling: workers that die or stall.",
                    unit="short",
                    queries=(Query(increase(consumer_metrics.REBALANCES, "10m", by="topic"), "{{topic}}"),),
                ),
                Panel(
                    title="Result store",
                    about="Full, it refuses results and the workers wait; nothing is lost.",
                    unit="bytes",
                    queries=(
                        Query(value(router_metrics.STORE_USED, op="max"), "used"),
                        Query(value(router_metrics.STORE_MAX, op="max"), "limit"),
                    ),
                ),
                Panel(
                    title="Consumers that stand still",
                    about="Time with records waiting and no progress; past INFERLANE_STUCK_AFTER_S it is replaced.",
                    unit="s",
                    queries=(Query(value(consumer_metrics.CONSUMER_STILL, by="topic", op="max"), "{{topic}}"),),
                ),
            ),
        ),
    ),
)
