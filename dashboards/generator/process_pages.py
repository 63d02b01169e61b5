"""The pages of single processes: the API and the workers."""

from dashboards.generator.panels import (
    CHOSEN,
    CPU_S,
    MEMORY_BYTES,
    UP,
    Page,
    Panel,
    Query,
    Section,
    Shape,
    mean,
    quantile,
    rate,
    value,
)
from inferlane.runtime.metrics import api_metrics, consumer_metrics, worker_metrics

_IS_API = 'component="api"'

API = Page(
    uid="inferlane-api",
    title="Inferlane: API",
    about="What clients send and get, and whether the API itself keeps up.",
    sections=(
        Section(
            title="Calls",
            panels=(
                Panel(
                    title="Answers by status and reason",
                    about="202: the wait ran out or nobody waited. 503 overloaded: the backlog is too long.",
                    unit="reqps",
                    queries=(
                        Query(rate(api_metrics.ANSWERS, by="status, reason", where=CHOSEN), "{{status}} {{reason}}"),
                    ),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="Latency",
                    about="From the first byte read to the answer, by version.",
                    unit="s",
                    queries=tuple(
                        Query(
                            quantile(rank, api_metrics.LATENCY, by="model, version", where=CHOSEN),
                            f"{{{{model}}}}/{{{{version}}}} p{rank * 100:g}",
                        )
                        for rank in (0.5, 0.95, 0.99)
                    ),
                ),
                Panel(
                    title="Accepted",
                    about="Requests that the broker has: from here on each one ends in a result.",
                    unit="reqps",
                    queries=(Query(rate(api_metrics.ACCEPTED, by="model", where=CHOSEN), "{{model}}"),),
                ),
                Panel(
                    title="Idempotency keys",
                    about="Replayed calls got the request that their key stands for.",
                    unit="reqps",
                    queries=(Query(rate(api_metrics.IDEMPOTENT, by="outcome"), "{{outcome}}"),),
                ),
                Panel(
                    title="Calls that no key let in",
                    about="A client with a wrong key, or somebody who tries.",
                    unit="reqps",
                    queries=(Query(rate(api_metrics.DENIED, by="reason"), "{{reason}}"),),
                ),
            ),
        ),
        Section(
            title="The process",
            panels=(
                Panel(
                    title="Clients that wait",
                    about="Open calls; the limit is INFERLANE_MAX_WAITING_REQUESTS a process.",
                    unit="short",
                    queries=(Query(value(api_metrics.WAITING, by="process"), "{{process}}"),),
                ),
                Panel(
                    title="To the broker",
                    about="p95 of one batch, from send to acknowledgement.",
                    unit="s",
                    queries=(Query(quantile(0.95, api_metrics.ENQUEUE), "p95"),),
                ),
                Panel(
                    title="Backlog that admission sees",
                    about="Records of waiting clients, by version.",
                    unit="short",
                    queries=(
                        Query(
                            value(api_metrics.BACKLOG, by="model, version", where=CHOSEN, op="max"),
                            "{{model}}/{{version}}",
                        ),
                    ),
                ),
                Panel(
                    title="CPU",
                    about="Cores; one process uses one at most.",
                    unit="short",
                    queries=(Query(f"sum by (process) (rate({CPU_S}{{{_IS_API}}}[$__rate_interval]))", "{{process}}"),),
                ),
                Panel(
                    title="Memory",
                    about="Resident.",
                    unit="bytes",
                    queries=(Query(f"sum by (process) ({MEMORY_BYTES}{{{_IS_API}}})", "{{process}}"),),
                ),
            ),
        ),
    ),
)


_EACH = "process, lane"
_NAME = "{{process}} {{lane}}"
_IS_WORKER = 'component="worker"'

WORKERS = Page(
    uid="inferlane-workers",
    title="Inferlane: workers",
    about="Each worker: how busy, how large its batches, how long each step.",
    sections=(
        Section(
            title="Work",
            panels=(
                Panel(
                    title="Busy ratio",
                    about="Share of the time in inference.",
                    unit="percentunit",
                    queries=(Query(rate(worker_metrics.BUSY, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Rows of a batch",
                    about="Mean. Alone a request is a batch; under load batches grow by themselves.",
                    unit="short",
                    queries=(Query(mean(worker_metrics.BATCH_ROWS, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Wait for a batch",
                    about="p95 from a take to its inference: the batch before it, and the other lane.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker_metrics.BATCH_WAIT, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Inference",
                    about="p95 of one run.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker_metrics.INFERENCE, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Store",
                    about="p95 from inference to durable results. High: the store or the broker is slow or full.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker_metrics.STORE, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Halted",
                    about="1: its model fails on most requests, so that it takes nothing.",
                    unit="short",
                    queries=(Query(value(worker_metrics.HALTED, by="process", where=CHOSEN, op="max"), "{{process}}"),),
                ),
            ),
        ),
        Section(
            title="Process",
            panels=(
                Panel(
                    title="CPU",
                    about="Cores.",
                    unit="short",
                    queries=(
                        Query(f"sum by (process) (rate({CPU_S}{{{_IS_WORKER}}}[$__rate_interval]))", "{{process}}"),
                    ),
                ),
                Panel(
                    title="Memory",
                    about="Resident.",
                    unit="bytes",
                    queries=(Query(f"sum by (process) ({MEMORY_BYTES}{{{_IS_WORKER}}})", "{{process}}"),),
                ),
                Panel(
                    title="Behind",
                    about="Records of its own partitions that a consumer has not finished.",
                    unit="short",
                    queries=(
                        Query(
                            value(consumer_metrics.CONSUMER_LAG, by="process, topic", where=_IS_WORKER),
                            "{{process}} {{topic}}",
                        ),
                    ),
                ),
                Panel(
                    title="Up",
                    about="0: Prometheus gets no answer.",
                    unit="short",
                    queries=(Query(f"max by (process) ({UP}{{{_IS_WORKER}}})", "{{process}}"),),
                ),
            ),
        ),
    ),
)
