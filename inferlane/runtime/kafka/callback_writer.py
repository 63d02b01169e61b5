"""Write callbacks beside results: a process writes the callback of a request before it commits the request."""

import time
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.callbacks import CallbackOrder, callback_record, short_callback_record
from inferlane.contracts.dead_letters import Cause, Original
from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.errors import InferlaneError, PayloadTooLargeError
from inferlane.runtime.kafka.record_writer import DeadLetterWriter, Sender, write_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.kafka_record import OutRecord
    from inferlane.contracts.results import Result
    from inferlane.runtime.retry import Retrier

log = structlog.get_logger(__name__)

_NOWHERE = -1


class CallbackWriter:
    """Writes the callbacks of results. Used from one event loop."""

    def __init__(
        self,
        sender: Sender,
        retrier: "Retrier",
        dead_letters: DeadLetterWriter,
        *,
        topic: str,
        pool: tuple[str, str],
        classes: ClassNames,
    ) -> None:
        """`classes`: the names of the classes by output, of the version that `pool` names, its model and version."""
        self._sender = sender
        self._retrier = retrier
        self._dead_letters = dead_letters
        self._topic = topic
        self._pool = pool
        self._classes = classes

    async def write(self, asked: "Sequence[tuple[Result, CallbackOrder]]") -> None:
        """Return when each callback is durable: in its topic, or in the dead letters if its topic refuses it."""
        records = [
            callback_record(self._topic, result, order, classes=self._classes_of(result)) for result, order in asked
        ]
        outcomes = await self._write(records)
        large = [number for number, error in enumerate(outcomes) if isinstance(error, PayloadTooLargeError)]
        if large:
            short = [short_callback_record(self._topic, *asked[number], _given(outcomes[number])) for number in large]
            for number, record, error in zip(large, short, await self._write(short), strict=True):
                records[number], outcomes[number] = record, error
        lost = [(record, error) for record, error in zip(records, outcomes, strict=True) if error is not None]
        if lost:
            log.error("callbacks_not_on_topic", topic=self._topic, callbacks=len(lost), error=str(lost[0][1]))
            await self._dead_letters.write([(_unwritten(record), _cause_of(error)) for record, error in lost])

    async def _write(self, records: "Sequence[OutRecord]") -> list[InferlaneError | None]:
        return list(await write_each(self._sender, self._retrier, records, stage="callbacks"))

    def _classes_of(self, result: "Result") -> ClassNames:
        # An earlier result in force may come from another version: then its class indices stay numbers.
        return self._classes if (result.model, result.version) == self._pool else NO_NAMES


def _given(error: InferlaneError | None) -> InferlaneError:
    return error or InferlaneError("the callback cannot be written")


def _unwritten(record: "OutRecord") -> Original:
    return Original(
        topic=record.topic,
        partition=_NOWHERE,
        offset=_NOWHERE,
        timestamp=int(time.time() * 1000),
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def _cause_of(error: InferlaneError) -> Cause:
    return Cause(reason=error.code, detail=str(error), attempts=0)
