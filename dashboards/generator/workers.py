"""Each worker process: busy with what, and how well."""

from dashboards.generator import foreign
from dashboards.generator.page import Page, Panel, Query, Section
from dashboards.generator.promql import CHOSEN, mean, quantile, rate, value
from inferlane.runtime.metrics import consuming, worker

_EACH = "process, lane"
_NAME = "{{process}} {{lane}}"
_IS_WORKER = 'component="worker"'

PAGE = Page(
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
                    queries=(Query(rate(worker.BUSY, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Rows of a batch",
                    about="Mean. Alone a request is a batch; under load batches grow by themselves.",
                    unit="short",
                    queries=(Query(mean(worker.BATCH_ROWS, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Wait for a batch",
                    about="p95 from a take to its inference: the batch before it, and the other lane.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker.BATCH_WAIT, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Inference",
                    about="p95 of one run.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker.INFERENCE, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Store",
                    about="p95 from inference to durable results. High: the store or the broker is slow or full.",
                    unit="s",
                    queries=(Query(quantile(0.95, worker.STORE, by=_EACH, where=CHOSEN), _NAME),),
                ),
                Panel(
                    title="Halted",
                    about="1: its model fails on most requests, so that it takes nothing.",
                    unit="short",
                    queries=(Query(value(worker.HALTED, by="process", where=CHOSEN, op="max"), "{{process}}"),),
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
                        Query(
                            f"sum by (process) (rate({foreign.CPU_S}{{{_IS_WORKER}}}[$__rate_interval]))", "{{process}}"
                        ),
                    ),
                ),
                Panel(
                    title="Memory",
                    about="Resident.",
                    unit="bytes",
                    queries=(Query(f"sum by (process) ({foreign.MEMORY_BYTES}{{{_IS_WORKER}}})", "{{process}}"),),
                ),
                Panel(
                    title="Behind",
                    about="Records of its own partitions that a consumer has not finished.",
                    unit="short",
                    queries=(
                        Query(
                            value(consuming.CONSUMER_LAG, by="process, topic", where=_IS_WORKER),
                            "{{process}} {{topic}}",
                        ),
                    ),
                ),
                Panel(
                    title="Up",
                    about="0: Prometheus gets no answer.",
                    unit="short",
                    queries=(Query(f"max by (process) ({foreign.UP}{{{_IS_WORKER}}})", "{{process}}"),),
                ),
            ),
        ),
    ),
)
