"""What traces cost: the spans of one request through all hops, kept, not kept and not asked for."""

from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from benchmarks.steps import Step, timed
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import Result, Status
from inferlane.runtime.delivery import Reply
from inferlane.runtime.tracing.spans import Tracing
from models.catalog import ModelVersion
from producer_api.http.asgi import PREDICT_PATH
from producer_api.predict.enqueuer import OnAcknowledged
from producer_api.predict.telemetry import TracedEnqueuer, begin_call_span, end_call_span
from router.router_telemetry import RouteSpans
from router.routing import Route
from workers.batch_telemetry import BatchSpans
from workers.batching import Batch, BatchRun, RunTimes

NAMES = Names()

_ID = "0" * 32


class _Encode(SpanExporter):
    """Encodes each span as it would be sent, and sends nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class _Acknowledge:
    """An enqueuer whose broker has everything at once."""

    last: OutRecord

    def enqueue(self, record: OutRecord, on_acknowledged: OnAcknowledged) -> int:
        self.last = record
        on_acknowledged(None)
        return 0

    def withdraw(self, ticket: int) -> bool:
        """Everything is there already."""
        return ticket < 0


def time_traces(version: ModelVersion, *, batch: int) -> tuple[Step, ...]:
    """CPU of the spans of one request, with batches of `batch` requests."""
    return (
        timed("all", "not asked for", lambda: _compare(None)),
        timed("all", "asked for, not kept", _all_hops(version, ALWAYS_OFF, batch), share=batch),
        timed("all", "kept and encoded", _all_hops(version, ALWAYS_ON, batch), share=batch),
    )


def _compare(tracing: Tracing | None) -> None:
    """What each of the four hops does where there are no traces."""
    for _ in range(4):
        if tracing is not None:
            raise AssertionError


def _all_hops(version: ModelVersion, sampler: Sampler, batch: int) -> Callable[[], None]:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_Encode()))
    tracing = Tracing(provider)
    broker = _Acknowledge()
    enqueuer = TracedEnqueuer(broker, tracing)
    spans = BatchSpans(tracing, version, Names())
    chosen = Route(version.model, version.version)
    done = Batch(lane=Lane.REQUESTS, fetched_s=1.0, run=BatchRun((), RunTimes(started_s=1.0, ended_s=2.0)))

    def go() -> None:
        answers = []
        take = RouteSpans(tracing, Names().ingress[Lane.REQUESTS], fetched_s=1.0)
        for _ in range(batch):
            call = begin_call_span(tracing, PREDICT_PATH, PREDICT_PATH, parent=None)
            headers = [("ce_id", _ID.encode()), (TRACE_PARENT, call.traceparent)]
            enqueuer.enqueue(OutRecord(NAMES.ingress[Lane.REQUESTS], b"", b"", headers), lambda _: None)
            routed = take.routed(chosen, broker.last)
            answers.append(_answer(version, dict(routed.headers)[TRACE_PARENT]))
            end_call_span(call, None, status=200, version=version.version, error=None)
        take.end()
        spans.add(done, answers, stored_s=2.0)

    return go


def _answer(version: ModelVersion, trace_parent: bytes) -> Reply:
    result = Result(
        request_id=_ID, status=Status.SUCCEEDED, model=version.model, version=version.version, finished_s=2.0, rows=1
    )
    return Reply(
        result=result, lane=Lane.REQUESTS, reply_to=None, batch_id=None, to_topic=False, trace_parent=trace_parent
    )


def traces_to_markdown(steps: Sequence[Step]) -> str:
    """One table."""
    lines = ["| traces | CPU µs for one request |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {step.step} | {step.cpu_us:.1f} |" for step in steps)]) + "\n"
