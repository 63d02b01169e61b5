"""A record as a request that can be batched."""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from inferlane.errors import DecodeError, InvalidInputError, PayloadTooLargeError
from inferlane.naming import Lane
from inferlane.record import RequestHeaders, default_headers, read_headers
from inferlane.wire.check import check_tensors
from inferlane.wire.v1 import decode_instances, find_instances
from inferlane.wire.v2 import decode_request

if TYPE_CHECKING:
    from inferlane.record import KafkaRecord
    from inferlane.signature import Signature

# More rows take longer to parse than a group waits for a heartbeat; a record that somebody else produced may have any.
_MAX_ROWS = 100_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request; each tensor is `(rows, …)`."""

    record: "KafkaRecord"
    headers: RequestHeaders
    lane: Lane
    tensors: dict[str, np.ndarray]
    rows: int
    wants_binary: bool


def decode(record: "KafkaRecord", lane: Lane, signature: "Signature") -> Request:
    """Read a record of a work topic.

    Raises:
        DecodeError: headers or payload are not what the contract says.
        InvalidInputError: the tensors do not fit the signature.
        PayloadTooLargeError: there are more rows than one record may have.
    """
    headers = read_headers(record)
    payload = record.value or b""
    instances = find_instances(payload) if headers.json_length is None else None
    if instances is not None:
        tensors, wants_binary = decode_instances(instances, signature, max_rows=_MAX_ROWS), False
    else:
        tensors, wants_binary = decode_request(payload, headers.json_length)
    return Request(
        record=record,
        headers=headers,
        lane=lane,
        tensors=tensors,
        rows=check_tensors(tensors, signature),
        wants_binary=wants_binary,
    )


def headers_of(record: "KafkaRecord") -> RequestHeaders:
    """The record's headers, or the defaults where they cannot be read."""
    try:
        return read_headers(record)
    except DecodeError:
        return default_headers(record)


UNREADABLE = (DecodeError, InvalidInputError, PayloadTooLargeError)
"""What `decode` raises for a record that no retry can mend."""
