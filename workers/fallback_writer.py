"""Write the records of requests that this version failed to the version that answers instead."""

from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from inferlane.contracts.kafka_record import trace_id_of
from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.record_writer import Sender, write_each
from inferlane.runtime.metrics.worker_metrics import FALLBACKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.runtime.delivery import Reply
    from inferlane.runtime.retry import Retrier

log = structlog.get_logger(__name__)


class FallbackWriter:
    """Writes fallback records of one version. Used from one event loop."""

    def __init__(self, sender: Sender, retrier: "Retrier", *, model: str, version: str) -> None:
        self._sender = sender
        self._retrier = retrier
        self._counts = {lane: FALLBACKS.labels(model, version, lane) for lane in Lane}

    async def write(self, replies: "Sequence[Reply]") -> "Sequence[Reply]":
        """Return the replies when each fallback record is durable, without those that their topic refuses.

        Such a reply is delivered as if it never had a fallback. Only then may the offsets be committed: a crash before
        that writes the record a second time, and the store keeps the first result of the two.

        Raises:
            NotServedError: the broker does not serve us; nothing is committed then.
        """
        fallen = {number: reply.fallback for number, reply in enumerate(replies) if reply.fallback is not None}
        outcomes = await write_each(self._sender, self._retrier, list(fallen.values()), stage="fallback")
        told = list(replies)
        for number, error in zip(fallen, outcomes, strict=True):
            reply = replies[number]
            result = reply.result
            if error is not None:
                detail = f"{result.error_detail}; no other version could be asked: {error}"
                told[number] = replace(reply, fallback=None, result=replace(result, error_detail=detail))
                log.error("fallback_refused", request_id=result.request_id, error=str(error))
                continue
            self._counts[reply.lane].inc()
            log.warning(
                "request_fell_back",
                lane=reply.lane,
                request_id=result.request_id,
                trace_id=trace_id_of(reply.trace_parent),
                to_topic=fallen[number].topic,
                code=result.error_code,
                detail=result.error_detail,
                stack=reply.stack,
            )
        return told
