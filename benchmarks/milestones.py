"""Where the latency of one request goes: the spans of its trace as milestones, one after the other."""

import secrets
import statistics
import time
import urllib.request
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.cases import Case
from benchmarks.systems.running import Running
from tests.support.collector import Collector

HOPS = (
    "HTTP, until the call is taken up",
    "parse",
    "produce, broker, until the router has it",
    "route, produce, broker, until the worker has it",
    "queue wait, batch",
    "infer",
    "make the result",
    "store, until it is durable",
    "wake-up, respond",
    "HTTP, until the client has it",
)
"""What lies between two milestones, in order."""

ENVIRONMENT: Mapping[str, str] = {
    # Of the load nothing is kept, of what is asked beside it everything.
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0",
}
"""What the processes need beside the endpoint."""

_PAUSE_S = 0.02
_NS_PER_MS = 1e6


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of `samples` requests in milliseconds: `whole_ms` as the client saw it, and its `hops_ms`.

    `router_ms` is what lies in one of them: from taking a record to its acknowledgement in the topic of its version.
    Medians of parts need not add up to the median of the whole.
    """

    whole_ms: float
    hops_ms: dict[str, float]
    samples: int
    router_ms: float | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request by its trace, and nanoseconds since the epoch of when it was sent and answered."""

    trace_id: str
    sent_ns: int
    answered_ns: int


def ask_beside(running: Running, case: Case, *, until_s: float, at_most: int) -> list[Asked]:
    """Ask one row after the other, each with a trace of its own that is kept.

    Raises:
        OSError: no answer, or one with an error status.
    """
    asked: list[Asked] = []
    body = running.body(case.rows[0])
    while time.perf_counter() < until_s and len(asked) < at_most:
        trace_id = secrets.token_hex(16)
        headers = {"content-type": "application/json", "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        request = urllib.request.Request(running.url, data=body, headers=headers)  # noqa: S310 - ours
        sent_ns = time.time_ns()
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
            response.read()
        asked.append(Asked(trace_id=trace_id, sent_ns=sent_ns, answered_ns=time.time_ns()))
        time.sleep(_PAUSE_S)
    return asked


def split_latency(asked: Sequence[Asked], collector: Collector) -> Latency:
    """The latency of those whose trace is whole.

    Raises:
        ValueError: there is none.
    """
    traces: dict[str, dict[str, Span]] = {}
    for _, span in collector.spans:
        traces.setdefault(span.trace_id.hex(), {})[span.name.partition(" ")[0]] = span
    whole = {one: milestones for one in asked if (milestones := _milestones(traces.get(one.trace_id, {}))) is not None}
    rows = [[one.sent_ns, *milestones, one.answered_ns] for one, milestones in whole.items()]
    if not rows:
        raise ValueError(f"none of {len(asked)} traces is whole; see the log of the stack")
    parts = [[(end - begin) / _NS_PER_MS for begin, end in pairwise(row)] for row in rows]
    medians = [statistics.median(part) for part in zip(*parts, strict=True)]
    return Latency(
        whole_ms=statistics.median((row[-1] - row[0]) / _NS_PER_MS for row in rows),
        hops_ms=dict(zip(HOPS, medians, strict=True)),
        samples=len(rows),
        router_ms=statistics.median(_duration_ms(traces[one.trace_id]["route"]) for one in whole),
    )


def _duration_ms(span: Span) -> float:
    return float(span.end_time_unix_nano - span.start_time_unix_nano) / _NS_PER_MS


def _milestones(spans: Mapping[str, Span]) -> list[int] | None:
    """The inner milestones in nanoseconds since the epoch; None while a span is missing."""
    try:
        call, send, route = spans["POST"], spans["send"], spans["route"]
        process, infer, store = spans["process"], spans["infer"], spans["store"]
    except KeyError:
        return None
    return [
        call.start_time_unix_nano,
        send.start_time_unix_nano,
        route.start_time_unix_nano,
        process.start_time_unix_nano,
        infer.start_time_unix_nano,
        infer.end_time_unix_nano,
        store.start_time_unix_nano,
        store.end_time_unix_nano,
        call.end_time_unix_nano,
    ]
