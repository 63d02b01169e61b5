"""The pages of single processes: the API and the workers."""

from dashboards.generator.panels import (
    CHOSEN,
    POOL,
    POOL_NAME,
    UP,
    Page,
    Panel,
    Query,
    Section,
    Shape,
    mean,
    process_panels,
    quantile,
    quantiles,
    rate,
    value,
)
from inferlane.runtime.metrics import api_metrics, consumer_metrics, worker_metrics

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
                    queries=quantiles(api_metrics.LATENCY, 0.5, 0.95, 0.99, where=CHOSEN),
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
                    title="Response cache",
                    about="Hits were answered without the queue. Empty where no model has a cache.",
                    unit="reqps",
                    queries=(Query(rate(api_metrics.CACHE, by="outcome"), "{{outcome}}"),),
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
                    queries=(Query(value(api_metrics.WAITING, by="process", where='component="api"'), "{{process}}"),),
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
                    queries=(Query(value(api_metrics.BACKLOG, by=POOL, where=CHOSEN, op="max"), POOL_NAME),),
                ),
                *process_panels("api", about_cpu="Cores; one process uses one at most."),
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
                    about="p95 from the fetch to its inference: the batch before it, and the other lane.",
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
                    about="1: its model fails on most requests, so that it fetches nothing.",
                    unit="short",
                    queries=(Query(value(worker_metrics.HALTED, by="process", where=CHOSEN, op="max"), "{{process}}"),),
                ),
            ),
        ),
        Section(
            title="Process",
            panels=(
                *process_panels("worker", about_cpu="Cores."),
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
