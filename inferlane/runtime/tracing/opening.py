"""Open tracing if OpenTelemetry's environment variables ask for it."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from inferlane.errors import ConfigurationError, clipped

if TYPE_CHECKING:
    from inferlane.runtime.tracing.spans import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NONE = "none"


async def enter_tracing(stack: AsyncExitStack, service: str) -> "Tracing | None":
    """Call `open_tracing`; the stack closes it in a thread, while the event loop goes on.

    Enter it first: a collector that does not answer delays what is closed after it.

    Raises:
        ConfigurationError: as `open_tracing`.
    """
    tracing = open_tracing(service)
    if tracing is not None:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing


def open_tracing(service: str, environ: Mapping[str, str] = os.environ) -> "Tracing | None":
    """Return the tracing that the environment asks for, None if it asks for none.

    Raises:
        ConfigurationError: it asks for something that is not installed or not supported, or has a value that
            OpenTelemetry refuses.
    """
    exporter = _exporter(environ)
    if exporter == _NONE:
        return None
    try:
        # OpenTelemetry reads some variables when it is imported.
        from inferlane.runtime.tracing.spans import Tracing, make_provider  # noqa: PLC0415 - loaded when asked for

        return Tracing(make_provider(service, exporter, environ))
    except ImportError as error:
        raise ConfigurationError(
            f"traces are asked for, but {error.name} is not installed; pip install 'inferlane[otel]', "
            f"or unset OTEL_TRACES_EXPORTER, {' and '.join(_ENDPOINTS)}"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        # Its messages do not always name the variable. Values may be secret, as those of headers are.
        names = ", ".join(sorted(name for name in environ if name.startswith("OTEL_")))
        raise ConfigurationError(
            f"OpenTelemetry refuses its settings: {clipped(str(error))}. Correct one of {names}, or set "
            "OTEL_TRACES_EXPORTER=none"
        ) from error


def _exporter(environ: Mapping[str, str]) -> str:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return _NONE
    default = "otlp" if any(environ.get(name) for name in _ENDPOINTS) else _NONE
    return environ.get("OTEL_TRACES_EXPORTER", "").strip() or default


def message_attributes(topic: str, request_id: str) -> dict[str, str]:
    """Of a span that sends or takes the record of a request."""
    return {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.message.id": request_id,
    }


def version_attributes(model: str, version: str) -> dict[str, str]:
    """Of a span that knows who serves the request."""
    return {"inferlane.model": model, "inferlane.version": version}
