"""The spans of a take: one for each record, from the fetch until it was produced again."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from inferlane.contracts.record import TRACE_PARENT
from inferlane.runtime.tracing import message_attributes, version_attributes

if TYPE_CHECKING:
    from inferlane.contracts.outgoing import OutRecord
    from inferlane.runtime.delivery import Answer
    from inferlane.runtime.tracing.spans import Attributes, Span, Tracing
    from router.routing import Route


class TakeSpans:
    """Spans that begin with a take and end together when it was forwarded."""

    def __init__(self, tracing: "Tracing", topic: str, *, taken_s: float) -> None:
        self._tracing = tracing
        self._topic = topic
        self._taken_s = taken_s
        self._open: list[tuple[Span, str | None]] = []

    def routed(self, chosen: "Route", out: "OutRecord") -> "OutRecord":
        """Begin the span of a routed record; what a worker does with the record that is returned is its child."""
        headers = dict(out.headers)
        span = self._begin(
            headers.get(TRACE_PARENT),
            message_attributes(self._topic, (headers.get("ce_id") or b"").decode(errors="replace"))
            | version_attributes(chosen.model, chosen.version),
        )
        self._open.append((span, None))
        return replace(out, headers=span.put_into(out.headers))

    def refused(self, answer: "Answer") -> None:
        """Begin the span of a record that no version can serve."""
        span = self._begin(answer.trace_parent, message_attributes(self._topic, answer.result.request_id))
        self._open.append((span, answer.result.error_code))

    def end(self) -> None:
        """End them all: the take is forwarded and its refusals are answered."""
        for span, error in self._open:
            span.end(error=error)

    def _begin(self, parent: bytes | None, attributes: "Attributes") -> "Span":
        return self._tracing.begin(
            f"route {self._topic}", kind="CONSUMER", parent=parent, at_s=self._taken_s, attributes=attributes
        )
