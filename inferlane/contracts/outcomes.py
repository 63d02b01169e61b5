"""What a worker did since it last said so: the record of `inferlane.outcomes`, JSON with sketches in base64.

A worker sends at most one a second, keyed `<model>/<version>`. Everything in it can be added up or merged, so that the
windows of a version are the same whoever adds them and in whatever order.
"""

from typing import Annotated

import msgspec

from inferlane.contracts.results import Status
from inferlane.contracts.sketches import check_sketch
from inferlane.errors import UNDECODABLE, DecodeError
from inferlane.quoting import clipped, quoted

SCHEMA = 1
TERMINAL = frozenset(status.value for status in Status if status is not Status.QUEUED)

# So large that no worker gets there, so small that a window of them still fits 64 bits.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# A worker cuts the labels of its model's classes to this; an empty one is a label too.
LABEL_CHARS = 200
Counts = Annotated[dict[Annotated[str, msgspec.Meta(max_length=LABEL_CHARS)], Count], msgspec.Meta(max_length=100_000)]


OTHER = "other"
"""A name past the bound of its set: of a label, or of what a window tells apart."""


class LatencySketches(msgspec.Struct, frozen=True, kw_only=True):
    """Sketches (`inferlane.contracts.sketches`) in seconds, one value a request that succeeded.

    `queue_wait` is from acceptance to the start of inference, `inference` the run that the request was part of,
    `total` from acceptance to the finished result.
    """

    queue_wait: bytes = b""
    inference: bytes = b""
    total: bytes = b""

    def __post_init__(self) -> None:
        for sketch in (self.queue_wait, self.inference, self.total):
            check_sketch(sketch)


class OutcomeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's summary of `from_s` to `to_s` (seconds since the epoch, on the worker's clock).

    `worker_id` is new with each start of a process and `sequence` rises within it, so the pair names a summary.
    `outcomes` counts requests by terminal status, `failures` by error code, `classes` predicted rows by label;
    `values` is the sketch of a regression's predictions. `cpu_s` is what the process used since its last summary.
    """

    schema: Annotated[int, msgspec.Meta(ge=SCHEMA, le=SCHEMA)] = SCHEMA
    model: Name
    version: Name
    worker_id: Name
    sequence: Count
    from_s: Amount
    to_s: Amount
    outcomes: dict[str, Count] = {}
    failures: Counts = {}
    batches: Count = 0
    rows: Count = 0
    latency: LatencySketches = LatencySketches()
    classes: Counts = {}
    values: bytes = b""
    cpu_s: Amount = 0.0
    memory_bytes: Count = 0

    def __post_init__(self) -> None:
        check_sketch(self.values)
        unknown = self.outcomes.keys() - TERMINAL
        if unknown:
            raise DecodeError(
                f"outcome {quoted(min(unknown))} is no terminal status; they are: {', '.join(sorted(TERMINAL))}"
            )


encode_summary = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(OutcomeSummary).decode


def decode_summary(raw: bytes) -> OutcomeSummary:
    """Read a record of the outcome topic.

    Raises:
        DecodeError: it holds no summary of this schema.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(
            f"a record of inferlane.outcomes holds no summary of schema {SCHEMA}: {clipped(str(error))}"
        ) from error
