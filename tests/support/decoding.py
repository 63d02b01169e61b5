"""A record alone, read as a worker reads each that it does not read with others."""

from inferlane.contracts.kafka_record import KafkaRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import read_headers
from models.catalog import ModelVersion
from workers.requests import Request, decode_body


def decode(record: KafkaRecord, lane: Lane, version: ModelVersion) -> Request:
    """Read headers and body of a record of the work topic of a version; raises as both do."""
    return decode_body(record, read_headers(record), lane, version)
