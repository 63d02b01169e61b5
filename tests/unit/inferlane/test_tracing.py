"""When there are traces, and what the spans of a batch and of a take say."""

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import TRACE_PARENT
from inferlane.contracts.results import Result, Status
from inferlane.errors import ConfigurationError
from inferlane.runtime.delivery import Reply
from inferlane.runtime.tracing import open_tracing, spans
from inferlane.runtime.tracing.spans import Tracing
from producer_api import main
from router.router_telemetry import RouteSpans
from router.routing import Route
from tests.support.fakes.records import make_version
from workers import version_service
from workers.batch_telemetry import BatchSpans
from workers.batching import Batch, BatchRun, RunTimes

TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
PARENT_ID = 0x00F067AA0BA902B7
PARENT = b"00-%032x-%016x-01" % (TRACE_ID, PARENT_ID)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def spans_of(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def answer(request_id: str, status: Status = Status.SUCCEEDED, *, error: str | None = None) -> Reply:
    result = Result(
        request_id=request_id,
        status=status,
        model="iris",
        version="v1",
        finished_s=13.0,
        rows=2,
        error_code=error,
    )
    return Reply(result=result, lane=Lane.REQUESTS, reply_to=None, batch_id=None, to_topic=False, trace_parent=PARENT)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
    ],
)
def test_nothing_is_traced_unless_the_environment_asks(environ: dict[str, str]) -> None:
    assert open_tracing("api", environ) is None


def test_off_it_costs_no_import() -> None:
    # OpenTelemetry itself may be there all the same: redis imports it wherever it is installed.
    program = (
        "import sys, producer_api.main, router.main, workers.main; "
        "print(any(name.endswith('.tracing.spans') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_what_is_asked_for_and_not_there_is_said(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_tracing("api", environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_BSP_SCHEDULE_DELAY": "-1"},
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99999"},
        # Read while OpenTelemetry is imported.
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1"},
        {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "none-such"},
    ],
)
def test_a_value_that_opentelemetry_refuses_is_said_with_the_variables_that_are_set(environ: dict[str, str]) -> None:
    program = (
        "import os; from inferlane.errors import ConfigurationError\n"
        "from inferlane.runtime.tracing import open_tracing\n"
        "try: open_tracing('api', os.environ)\n"
        "except ConfigurationError as error: print(error)"
    )
    variables = {**os.environ, **environ, "OTEL_TRACES_EXPORTER": "otlp"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True, timeout=120
    )
    assert "OpenTelemetry refuses its settings" in ran.stdout
    (name,) = environ
    assert f"{name}, OTEL_TRACES_EXPORTER" in ran.stdout


class SilentExporter(SpanExporter):
    """Waits for a collector that never answers."""

    def __init__(self) -> None:
        self.asked, self.answered = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the name is OpenTelemetry's
        self.asked.set()
        self.answered.wait()
        return SpanExportResult.SUCCESS


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `sending.join(CLOSE_S)` in `Tracing.close`; fails when closing waits for the exporter."""
    monkeypatch.setattr(spans, "CLOSE_S", 0.1)
    exporter, provider = SilentExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    traced = Tracing(provider)
    traced.begin("a", kind="SERVER").end()

    closing = threading.Thread(target=traced.close, daemon=True)
    closing.start()
    assert exporter.asked.wait(20)
    # Less than the 30 s for which OpenTelemetry waits for its exporter.
    closing.join(20)
    assert not closing.is_alive()
    assert not exporter.answered.is_set()
    exporter.answered.set()


@pytest.mark.parametrize("start", [main._start, version_service.open_clients], ids=["api", "worker"])
async def test_tracing_is_entered_before_and_so_closed_after_the_clients_of_broker_and_store(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Awaitable[Any]]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    unused = {name: None for name in inspect.signature(start).parameters if name != "stack"}
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigurationError, match="zipkin"):
            await start(stack=stack, **unused)


def test_a_missing_extra_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "inferlane.runtime.tracing.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigurationError, match=r"inferlane\[otel\]"):
        open_tracing("api", {"OTEL_TRACES_EXPORTER": "console"})


@pytest.mark.parametrize("parent", [None, b"00-zz-11-01", b"\xff\xfe", PARENT + b"junk"])
def test_a_parent_that_cannot_be_read_makes_a_new_trace(
    tracing: Tracing, exporter: InMemorySpanExporter, parent: bytes | None
) -> None:
    tracing.begin("a", kind="SERVER", parent=parent).end()
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


def test_the_spans_of_a_batch_say_where_each_request_spent_its_time(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=BatchRun((), RunTimes(started_s=12.0, ended_s=13.0)))
    BatchSpans(tracing, make_version(), Names()).add(batch, [answer("a")], stored_s=13.5)
    spans = spans_of(exporter)
    process, whole = spans["process inferlane.iris.v1.requests"], spans["batch iris v1"]
    assert process.parent is not None
    assert (process.context.trace_id, process.parent.span_id) == (TRACE_ID, PARENT_ID)
    assert process.kind is SpanKind.CONSUMER
    assert [link.context.span_id for link in whole.links] == [process.context.span_id]
    assert [link.context.span_id for link in process.links] == [whole.context.span_id]
    times = {
        name: (span.start_time, span.end_time) for name, span in spans.items() if name in ("infer", "store result")
    }
    assert times == {"infer": (12_000_000_000, 13_000_000_000), "store result": (13_000_000_000, 13_500_000_000)}
    assert (process.start_time, process.end_time) == (10_000_000_000, 13_500_000_000)


def test_a_request_that_failed_is_an_error_with_its_code_and_was_not_inferred(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=BatchRun((), RunTimes(started_s=12.0, ended_s=13.0)))
    failed = answer("a", Status.EXPIRED, error="deadline_exceeded")
    BatchSpans(tracing, make_version(), Names()).add(batch, [failed], stored_s=13.5)
    spans = spans_of(exporter)
    process = spans["process inferlane.iris.v1.requests"]
    assert process.status.status_code is StatusCode.ERROR
    assert process.attributes is not None
    assert process.attributes["error.type"] == "deadline_exceeded"
    assert "infer" not in spans


def test_the_router_puts_its_span_in_place_of_the_one_that_came(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    headers = [("ce_id", b"a"), (TRACE_PARENT, PARENT), ("mine", b"kept")]
    take = RouteSpans(tracing, Names().ingress[Lane.BULK], fetched_s=10.0)
    out = take.routed(Route("iris", "v1"), OutRecord("inferlane.iris.v1.bulk", b"k", b"{}", headers))
    take.refused(answer("b", Status.FAILED, error="unknown_model"))
    take.end()
    routed, refused = exporter.get_finished_spans()
    assert [name for name, _ in out.headers] == ["ce_id", "mine", TRACE_PARENT]
    assert dict(out.headers)[TRACE_PARENT] == b"00-%032x-%016x-01" % (TRACE_ID, routed.context.span_id)
    assert routed.name == "route inferlane.bulk"
    assert refused.status.status_code is StatusCode.ERROR
