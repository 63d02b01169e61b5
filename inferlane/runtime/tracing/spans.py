"""Begin and end spans. Needs the extra `otel`.

Source: W3C Trace Context, section 3.2.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Literal

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from inferlane import __version__
from inferlane.contracts.kafka_record import Headers
from inferlane.contracts.record import TRACE_PARENT
from inferlane.errors import ConfigurationError

Attributes = Mapping[str, str | int | float | bool]
CLOSE_S = 2.0
"""How long a process that stops tries to send its last spans, in seconds."""
Kind = Literal["SERVER", "PRODUCER", "CONSUMER", "CLIENT", "INTERNAL"]
"""What a span is to the other end of its hop; the names are OpenTelemetry's."""


class Span:
    """One span that has begun."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    @property
    def context(self) -> otel.SpanContext:
        """The span context, by which others refer to it."""
        return self._span.get_span_context()

    @property
    def traceparent(self) -> bytes:
        """The header that makes a span elsewhere a child of this one."""
        context = self.context
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def put_into(self, headers: Headers) -> list[tuple[str, bytes]]:
        """Return the headers of a record, with this span in place of the one that they named."""
        return [*(header for header in headers if header[0] != TRACE_PARENT), (TRACE_PARENT, self.traceparent)]

    @property
    def is_kept(self) -> bool:
        """Whether the sampler kept it; attributes of a span that is not kept are dropped."""
        return self._span.is_recording()

    def link(self, other: "Span") -> None:
        """Link this span to `other`, of another trace."""
        self._span.add_link(other.context)

    def end(self, *, at_s: float | None = None, error: str | None = None, attributes: Attributes | None = None) -> None:
        """End it now, or at `at_s`, seconds since the epoch. `error` is the code of what went wrong."""
        if attributes is not None:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(otel.StatusCode.ERROR, error)
        self._span.end(None if at_s is None else _ns(at_s))


class Tracing:
    """Begins spans; one for each process. `open_tracing` makes it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("inferlane", __version__)
        self._extract = TraceContextTextMapPropagator().extract

    def begin(
        self,
        name: str,
        *,
        kind: Kind,
        parent: bytes | None = None,
        at_s: float | None = None,
        attributes: Attributes | None = None,
        links: Iterable[Span] = (),
    ) -> Span:
        """Begin a span now, or at `at_s`, seconds since the epoch.

        `parent` is a `traceparent`; with none, or one that is malformed, the span is the root of a trace.
        """
        return Span(
            self._tracer.start_span(
                name,
                context=self._context(parent),
                kind=otel.SpanKind[kind],
                attributes=attributes,
                links=[otel.Link(link.context) for link in links],
                start_time=None if at_s is None else _ns(at_s),
            )
        )

    def close(self) -> None:
        """Send the remaining spans; blocks for at most `CLOSE_S`, after which those that were not sent are lost."""
        # A daemon, so that the process ends while the exporter still tries: for half a minute where the collector
        # accepts connections and does not answer.
        sending = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        sending.start()
        sending.join(CLOSE_S)

    def _context(self, parent: bytes | None) -> Context:
        carrier = {} if parent is None else {TRACE_PARENT: parent.decode("ascii", errors="replace")}
        return self._extract(carrier, context=Context())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def make_provider(service: str, exporter: str, environ: Mapping[str, str]) -> TracerProvider:
    """Return the tracer provider of one process, which sends spans in batches from a thread of its own.

    The service is called `inferlane-<service>` unless `OTEL_SERVICE_NAME` says otherwise.

    Raises:
        ConfigurationError: `exporter` or the protocol is not supported.
    """
    named = {} if environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"inferlane-{service}"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_make_exporter(exporter, environ)))
    return provider


def _make_exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER is {name!r}; it may be otlp, console or none")
    protocol = next((environ[variable] for variable in _PROTOCOLS if environ.get(variable)), _HTTP)
    if protocol != _HTTP:
        raise ConfigurationError(
            f"traces go out as {_HTTP} alone, not as {protocol!r}; unset {' and '.join(_PROTOCOLS)}"
        )
    return OTLPSpanExporter()
