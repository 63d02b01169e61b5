"""Traces: a span for each hop of a request, tied together by the `traceparent` header. Off unless asked for.

OpenTelemetry's own environment variables turn it on and configure it: where spans go, how many are sampled, the name of
the service. If it is off, nothing of OpenTelemetry is imported, and a hop pays one comparison.
"""

from inferlane.runtime.tracing.opening import enter_tracing, message_attributes, open_tracing, version_attributes

__all__ = ["enter_tracing", "message_attributes", "open_tracing", "version_attributes"]
