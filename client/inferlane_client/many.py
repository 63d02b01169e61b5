"""One of many requests, and what became of it."""

from dataclasses import dataclass, replace

from inferlane_client.answers import Prediction
from inferlane_client.call_errors import CallError
from inferlane_client.request import Request, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of request number `index`, which counts from 0 in the order of the requests."""

    index: int
    outcome: Prediction | CallError

    def prediction(self) -> Prediction:
        """The result.

        Raises:
            CallError: there is none; the error says why.
        """
        if isinstance(self.outcome, CallError):
            raise self.outcome
        return self.outcome


def request_of(item: Request | Rows, *, model: str | None, version: str | None) -> Request:
    """The request that an item of many stands for; what it does not name itself is that of the call."""
    if not isinstance(item, Request):
        return Request(rows=item, model=model, version=version)
    return replace(item, model=item.model or model, version=item.version or version)


def check_concurrency(concurrency: int) -> int:
    """Return the number if so many requests can be under way.

    Raises:
        ValueError: it is less than 1.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    return concurrency
