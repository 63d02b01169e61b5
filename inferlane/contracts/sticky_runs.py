"""Sticky partitioner: which records go to one partition in a row, and how many. Pure."""

from inferlane.contracts.record import RequestHeaders

# The default of INFERLANE_STICKY_RECORDS, which is the router's. Records that are moved to another version, or sent to
# be compared, are few beside those that the router forwards, so they have this limit.
STICKY_RECORDS = 16


def run_limit_of(headers: RequestHeaders, key: bytes, *, most: int) -> int:
    """Return `most` for a record that no key orders, else 0: its key chooses the partition."""
    return most if headers.routing_key is None and key == headers.request_id.encode() else 0
