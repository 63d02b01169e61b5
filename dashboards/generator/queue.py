"""Queue and scaling: is the backlog growing, and do the pools follow."""

from dashboards.generator import foreign
from dashboards.generator.page import Page, Panel, Query, Section
from dashboards.generator.promql import CHOSEN, increase, rate, value
from inferlane.runtime.metrics import api, consuming, router, worker

_POOL = "model, version"
_NAME = "{{model}}/{{version}}"

PAGE = Page(
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
                            value(router.POOL_LAG, by=f"{_POOL}, lane", where=CHOSEN, op="max"), f"{_NAME} {{{{lane}}}}"
                        ),
                    ),
                ),
                Panel(
                    title="Lag of the router",
                    about="Records that nobody has routed.",
                    unit="short",
                    queries=(Query(value(router.INGRESS_LAG, by="lane", op="max"), "{{lane}}"),),
                ),
                Panel(
                    title="Oldest waiting record",
                    about="At least so old. A straight line up means that nothing moves.",
                    unit="s",
                    queries=(
                        Query(
                            value(router.POOL_AGE, by=f"{_POOL}, lane", where=CHOSEN, op="max"), f"{_NAME} {{{{lane}}}}"
                        ),
                        Query(value(router.INGRESS_AGE, by="lane", op="max"), "router {{lane}}"),
                    ),
                ),
                Panel(
                    title="In and out",
                    about="Routed to a version against ended by it: the gap is what the backlog grows by.",
                    unit="reqps",
                    queries=(
                        Query(rate(router.ROUTED, by=_POOL, where=CHOSEN), f"{_NAME} in"),
                        Query(rate(worker.REQUESTS, by=_POOL, where=CHOSEN), f"{_NAME} out"),
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
                        Query(f"{foreign.WORKERS}{{{CHOSEN}}}", f"{_NAME} workers"),
                        Query(value(router.POOL_MAX, by=_POOL, where=CHOSEN, op="max"), f"{_NAME} maximum"),
                    ),
                ),
                Panel(
                    title="What KEDA wants",
                    about="Replicas that the autoscaler asks for; on Kubernetes, from kube-state-metrics.",
                    unit="short",
                    queries=(
                        Query(
                            f"max by (namespace, horizontalpodautoscaler) ({foreign.KEDA_WISH})",
                            "{{horizontalpodautoscaler}}",
                        ),
                    ),
                ),
                Panel(
                    title="Busy ratio",
                    about="Share of the time that a worker infers: near 1 with a backlog, the pool is the bottleneck.",
                    unit="percentunit",
                    queries=(Query(f"{foreign.BUSY_RATIO}{{{CHOSEN}}}", _NAME),),
                ),
                Panel(
                    title="Service rate",
                    about="Records a second that a pool finishes while it has work: what the API counts on.",
                    unit="reqps",
                    queries=(Query(value(api.SERVICE_RATE, by=_POOL, where=CHOSEN, op="max"), _NAME),),
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
                            increase(consuming.DEAD_LETTERS, "10m", by=f"{_POOL}, reason"),
                            f"{_NAME} {{{{reason}}}}",
                        ),
                    ),
                ),
                Panel(
                    title="Rebalances, last 10 minutes",
                    about="Each one stops a whole group for a moment. Many without scaling: workers that die or stall.",
                    unit="short",
                    queries=(Query(increase(consuming.REBALANCES, "10m", by="topic"), "{{topic}}"),),
                ),
                Panel(
                    title="Result store",
                    about="Full, it refuses results and the workers wait; nothing is lost.",
                    unit="bytes",
                    queries=(
                        Query(value(router.STORE_USED, op="max"), "used"),
                        Query(value(router.STORE_MAX, op="max"), "limit"),
                    ),
                ),
                Panel(
                    title="Consumers that stand still",
                    about="Time with records waiting and no progress; past INFERLANE_STUCK_AFTER_S it is replaced.",
                    unit="s",
                    queries=(Query(value(consuming.CONSUMER_STILL, by="topic", op="max"), "{{topic}}"),),
                ),
            ),
        ),
    ),
)
