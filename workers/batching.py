"""Batches: form them from requests, run them, and give each request its own rows back. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import msgspec
import numpy as np

from inferlane.contracts.naming import Lane
from inferlane.contracts.wire.free_rows import filled
from inferlane.contracts.wire.tensors import NO_ROW_AXIS, Signature
from inferlane.errors import InferlaneError, ModelError, RowsRefusedError
from workers.requests import Request

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class InferredRequest(msgspec.Struct, frozen=True):
    """One request after a run: its own rows of each output, or the error that it alone caused."""

    request: Request
    outputs: dict[str, np.ndarray] | None
    error: InferlaneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """When a run started and ended, seconds since the epoch; during `waited_s` of it the model ran other requests."""

    started_s: float
    ended_s: float
    waited_s: float = 0.0

    @property
    def inference_s(self) -> float:
        """How long the model ran."""
        return max(0.0, self.ended_s - self.started_s - self.waited_s)


@dataclass(frozen=True, slots=True)
class BatchRun:
    """What the model gave for the requests of a batch, and when; empty if none of them was still to be inferred."""

    inferred: Sequence[InferredRequest]
    times: RunTimes

    @property
    def output_bytes(self) -> int:
        """The size of all outputs."""
        outputs = (array for one in self.inferred for array in (one.outputs or {}).values())
        # An output that is not an array is reported where it is encoded.
        return sum(getattr(array, "nbytes", 0) for array in outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests that are replied to together. `run` is None if none was inferred; `fetched_s` is since the epoch."""

    lane: Lane
    fetched_s: float
    run: BatchRun | None = None


def split_by_rows(requests: Sequence[Request], max_rows: int) -> Iterator[list[Request]]:
    """Cut into batches of at most `max_rows` rows, in order; a larger request is alone in its batch."""
    batch: list[Request] = []
    rows = 0
    for request in requests:
        if batch and rows + request.rows > max_rows:
            yield batch
            batch, rows = [], 0
        batch.append(request)
        rows += request.rows
    if batch:
        yield batch


def in_a_row(batches: Sequence[Sequence[Request]], max_rows: int) -> Sequence[Sequence[Request]]:
    """Return the first batch, and those after it that fit a run and have no deadline, up to the first that does not."""
    ends = (
        number
        for number, batch in enumerate(batches)
        if number and (batch[0].rows > max_rows or any(request.headers.deadline_s is not None for request in batch))
    )
    return batches[: next(ends, len(batches))]


def pieces_of(request: Request, max_rows: int) -> list[Request]:
    """Cut a request into pieces of at most `max_rows` rows, in order; the tensors are views."""
    return [
        msgspec.structs.replace(
            request,
            tensors={name: array[start : start + max_rows] for name, array in request.tensors.items()},
            rows=min(max_rows, request.rows - start),
        )
        for start in range(0, request.rows, max_rows)
    ]


def join(request: Request, pieces: Sequence[InferredRequest]) -> InferredRequest:
    """Join the inferred pieces of a request, in order; the error of a piece is the error of the request."""
    outputs: list[dict[str, np.ndarray]] = []
    rows = 0
    for piece in pieces:
        if piece.outputs is None:
            error = piece.error.moved(rows) if isinstance(piece.error, RowsRefusedError) else piece.error
            return InferredRequest(request, None, error)
        outputs.append(piece.outputs)
        rows += piece.request.rows
    return InferredRequest(request, {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]})


def batches_of(requests: list[Request], signature: Signature, max_rows: int) -> Iterator[list[Request]]:
    """Cut requests into batches of at most `max_rows` rows, each of requests that may run together."""
    groups = by_length(requests, signature) if signature.has_free_axes else [requests]
    return chain.from_iterable(split_by_rows(group, max_rows) for group in groups)


def by_length(requests: Sequence[Request], signature: Signature) -> list[list[Request]]:
    """Requests that may be in one batch: of lengths up to the same power of two, or of one length without `pad`."""
    groups: dict[Any, list[Request]] = {}
    for request in requests:
        shapes = [(spec, request.tensors[spec.name].shape[1:]) for spec in signature.inputs]
        key = tuple(shape if spec.pad is None else tuple(n.bit_length() for n in shape) for spec, shape in shapes)
        groups.setdefault(key, []).append(request)
    return list(groups.values())


def stack(requests: Sequence[Request]) -> dict[str, np.ndarray]:
    """Concatenate the inputs of all requests: one array `(rows of all requests, …)` each, in their order."""
    if len(requests) == 1:
        return requests[0].tensors
    if pads := requests[0].pads:
        return {
            name: filled([request.tensors[name] for request in requests], pads[name]) for name in requests[0].tensors
        }
    return {name: np.concatenate([request.tensors[name] for request in requests]) for name in requests[0].tensors}


def unstack(outputs: Mapping[str, np.ndarray], requests: Sequence[Request]) -> Iterator[dict[str, np.ndarray]]:
    """Yield each request's own rows of each output, as views."""
    start = 0
    for request in requests:
        end = start + request.rows
        own = {name: array[start:end] for name, array in outputs.items()}
        yield own if not request.pads else _cut(own, request, requests)
        start = end


def _cut(outputs: dict[str, np.ndarray], request: Request, batch: Sequence[Request]) -> dict[str, np.ndarray]:
    """Return the outputs without what belongs to the fill: axes that are as long as the filled rows were."""
    lengths: dict[int, int] = {}
    for name, array in request.tensors.items():
        for axis, own in enumerate(array.shape[1:], start=1):
            longest = max(other.tensors[name].shape[axis] for other in batch)
            if longest != own:
                lengths[longest] = own

    def kept(array: np.ndarray, free: tuple[int, ...]) -> np.ndarray:
        return array[tuple(slice(lengths.get(size) if axis in free else None) for axis, size in enumerate(array.shape))]

    return {name: kept(array, request.free_outputs.get(name, ())) for name, array in outputs.items()}


def run_in_pieces(run: Run, inputs: Mapping[str, np.ndarray], *, batch: int) -> dict[str, np.ndarray]:
    """Run rows through a graph that takes exactly `batch` rows, or one without a row axis if `batch` is `NO_ROW_AXIS`.

    The last piece is filled up with its last row, which is a row that the model takes, and its outputs are cut.
    """
    rows = len(next(iter(inputs.values())))
    if batch == NO_ROW_AXIS:
        singles = [
            run({name: array[row : row + 1].reshape(array.shape[1:]) for name, array in inputs.items()})
            for row in range(rows)
        ]
        return {name: np.stack([single[name] for single in singles]) for name in singles[0]}
    pieces = [
        run({name: _filled_up(array[start : start + batch], batch) for name, array in inputs.items()})
        for start in range(0, rows, batch)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces])[:rows] for name in pieces[0]}


def run_in_sizes(run: Run, inputs: Mapping[str, np.ndarray], *, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Run rows filled up to the next of `sizes`, which ascend; more rows than the largest go in pieces of it."""
    rows = len(next(iter(inputs.values())))
    return run_in_pieces(run, inputs, batch=next((size for size in sizes if size >= rows), sizes[-1]))


def _filled_up(rows: np.ndarray, batch: int) -> np.ndarray:
    missing = batch - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def run_batch(run: Run, requests: Sequence[Request]) -> list[InferredRequest]:
    """Run the requests as one batch; halve a batch that fails until the bad request is alone.

    A bad request costs the others about `2 log2(n)` smaller runs; one that a step before the model refuses costs them
    that step.
    """
    try:
        outputs = run(stack(requests))
    except RowsRefusedError as error:
        return _without_refused(run, requests, error)
    except ModelError as error:
        if len(requests) == 1:
            return [InferredRequest(requests[0], None, error)]
        middle = len(requests) // 2
        return run_batch(run, requests[:middle]) + run_batch(run, requests[middle:])
    return [InferredRequest(request, own) for request, own in zip(requests, unstack(outputs, requests), strict=True)]


def _without_refused(run: Run, requests: Sequence[Request], error: RowsRefusedError) -> list[InferredRequest]:
    """Fail the requests that the refused rows belong to, and run the others."""
    reasons: dict[int, dict[int, str]] = {}
    starts = list(accumulate((request.rows for request in requests), initial=0))
    for row, reason in error.reasons.items():
        index = bisect_right(starts, row) - 1
        reasons.setdefault(index, {})[row - starts[index]] = reason
    good = [request for index, request in enumerate(requests) if index not in reasons]
    inferred = iter(run_batch(run, good) if good else ())
    return [
        InferredRequest(request, None, RowsRefusedError(reasons[index])) if index in reasons else next(inferred)
        for index, request in enumerate(requests)
    ]
