"""Sends a worker's summaries to the outcome topic."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.outcomes import encode_summary
from inferlane.contracts.outgoing import OutRecord
from inferlane.contracts.record import JSON_CONTENT
from inferlane.errors import InferlaneError
from inferlane.runtime.kafka.producing import BatchProducer

if TYPE_CHECKING:
    from workers.outcomes import OutcomeRecorder

log = structlog.get_logger(__name__)

_HEADERS = [("content-type", JSON_CONTENT)]


async def report_outcomes(
    recorder: "OutcomeRecorder", producer: BatchProducer, *, topic: str, interval_s: float
) -> None:
    """Send one summary an interval for ever; the last one is sent when the task is cancelled."""
    try:
        while True:
            await asyncio.sleep(interval_s)
            await _report(recorder, producer, topic)
    finally:
        await _report(recorder, producer, topic)


async def _report(recorder: "OutcomeRecorder", producer: BatchProducer, topic: str) -> None:
    summary = recorder.take_summary()
    if summary is None:
        return
    key = f"{summary.model}/{summary.version}".encode()
    try:
        await producer.send([OutRecord(topic, key, encode_summary(summary), _HEADERS)])
    except InferlaneError as error:
        # A gap in the windows, not in the results: nothing that was accepted depends on a summary.
        log.warning("summary_lost", model=summary.model, version=summary.version, error=str(error))
