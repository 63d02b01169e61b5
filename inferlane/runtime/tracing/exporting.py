"""Where spans go. Needs the extra `otel`."""

from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from inferlane.errors import ConfigurationError

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def make_provider(service: str, exporter: str, environ: Mapping[str, str]) -> TracerProvider:
    """What makes the spans of one process and sends them in batches, in a thread of its own.

    The service is called `inferlane-<service>` unless `OTEL_SERVICE_NAME` says otherwise.

    Raises:
        ConfigurationError: `exporter` or the protocol is none that we have.
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
