"""Writing records until each is written or refused for good."""

from collections.abc import Callable, Sequence
from typing import Protocol

from inferlane.contracts.outgoing import OutRecord
from inferlane.errors import InferlaneError, NotServedError, RecordRefusedError, UnavailableError
from inferlane.runtime.retrying import Retrier


class Sender(Protocol):
    """`inferlane.runtime.kafka.producing.BatchProducer`, as far as it is used here."""

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        """Return for each record None when it is written, else why not."""
        ...


class PatientSender:
    """Takes a topic that is gone for one that is away: for records that have no other place."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def send_each(self, records: Sequence[OutRecord]) -> Sequence[InferlaneError | None]:
        """As the sender, with an error that time may mend for each that a person may."""
        return [
            UnavailableError(str(error)) if isinstance(error, RecordRefusedError) else error
            for error in await self._sender.send_each(records)
        ]


def never() -> bool:
    """Never give up: the records are sent for as long as it takes."""
    return False


async def write_each(
    sender: Sender,
    retrier: Retrier,
    records: Sequence[OutRecord],
    *,
    stage: str,
    gives_up: Callable[[], bool] = never,
) -> Sequence[InferlaneError | None]:
    """Return for each record None when it is written, else the error for which it never will be.

    What may be mended by time is sent again, and only that, until `gives_up` says so: then its error is returned too.

    Raises:
        NotServedError: the broker does not serve us; what was not written is not refused either.
    """
    outcomes: list[InferlaneError | None] = [None] * len(records)
    left = list(range(len(records)))

    async def send_left() -> None:
        nonlocal left
        found = dict(zip(left, await sender.send_each([records[number] for number in left]), strict=True))
        for number, error in found.items():
            if isinstance(error, NotServedError):
                raise error
            outcomes[number] = error
        again = {number: error for number, error in found.items() if isinstance(error, UnavailableError)}
        left = list(again)
        if left and not gives_up():
            raise again[left[0]]

    if records:
        await retrier.until_done(send_left, stage=stage)
    return outcomes
