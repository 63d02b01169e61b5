"""The API: what clients send, and what they get."""

from dashboards.generator import foreign
from dashboards.generator.page import Page, Panel, Query, Section, Shape
from dashboards.generator.promql import CHOSEN, quantile, rate, value
from inferlane.runtime.metrics import api

_IS_API = 'component="api"'

PAGE = Page(
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
                    queries=(Query(rate(api.ANSWERS, by="status, reason", where=CHOSEN), "{{status}} {{reason}}"),),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="Latency",
                    about="From the first byte read to the answer, by version.",
                    unit="s",
                    queries=tuple(
                        Query(
                            quantile(rank, api.LATENCY, by="model, version", where=CHOSEN),
                            f"{{{{model}}}}/{{{{version}}}} p{rank * 100:g}",
                        )
                        for rank in (0.5, 0.95, 0.99)
                    ),
                ),
                Panel(
                    title="Accepted",
                    about="Requests that the broker has: from here on each one ends in a result.",
                    unit="reqps",
                    queries=(Query(rate(api.ACCEPTED, by="model", where=CHOSEN), "{{model}}"),),
                ),
                Panel(
                    title="Idempotency keys",
                    about="Replayed calls got the request that their key stands for.",
                    unit="reqps",
                    queries=(Query(rate(api.IDEMPOTENT, by="outcome"), "{{outcome}}"),),
                ),
                Panel(
                    title="Calls that no key let in",
                    about="A client with a wrong key, or somebody who tries.",
                    unit="reqps",
                    queries=(Query(rate(api.DENIED, by="reason"), "{{reason}}"),),
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
                    queries=(Query(value(api.WAITING, by="process"), "{{process}}"),),
                ),
                Panel(
                    title="To the broker",
                    about="p95 of one batch, from send to acknowledgement.",
                    unit="s",
                    queries=(Query(quantile(0.95, api.ENQUEUE), "p95"),),
                ),
                Panel(
                    title="Backlog that admission sees",
                    about="Records of waiting clients, by version.",
                    unit="short",
                    queries=(
                        Query(value(api.BACKLOG, by="model, version", where=CHOSEN, op="max"), "{{model}}/{{version}}"),
                    ),
                ),
                Panel(
                    title="CPU",
                    about="Cores; one process uses one at most.",
                    unit="short",
                    queries=(
                        Query(
                            f"sum by (process) (rate({foreign.CPU_S}{{{_IS_API}}}[$__rate_interval]))", "{{process}}"
                        ),
                    ),
                ),
                Panel(
                    title="Memory",
                    about="Resident.",
                    unit="bytes",
                    queries=(Query(f"sum by (process) ({foreign.MEMORY_BYTES}{{{_IS_API}}})", "{{process}}"),),
                ),
            ),
        ),
    ),
)
