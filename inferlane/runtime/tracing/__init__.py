"""Traces: a span for each hop of a request, tied together by the `traceparent` header. Off unless asked for.

OpenTelemetry's own environment variables ask for it and steer it: where spans go, how many are kept, what the service
is called. Off, nothing of OpenTelemetry is imported and a hop pays one comparison.
"""

from inferlane.runtime.tracing.opening import enter_tracing, message_attributes, open_tracing, version_attributes

__all__ = ["enter_tracing", "message_attributes", "open_tracing", "version_attributes"]
