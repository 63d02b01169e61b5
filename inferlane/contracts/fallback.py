"""The fallback of a version under trial: the stable version answers its failed requests, under the same id. Pure.

The router says on each record of the trial which version that is; a worker needs no traffic split to act on it.
"""

from inferlane.contracts.kafka_record import KafkaRecord, OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import FALLBACK, FALLEN_BACK_FROM, ROLLOUT, RequestHeaders
from inferlane.contracts.sticky_runs import STICKY_RECORDS, run_limit_of

# The share of the time to its deadline that a request may wait for the version under trial. The rest is for the other
# one: less may be too little for it, more gives up requests that the version under trial would still have answered.
_WAIT_SHARE = 0.5
_REPLACED = frozenset({FALLBACK, FALLEN_BACK_FROM, ROLLOUT, "ce_modelversion", "ce_attempt"})


def fallback_record(
    record: KafkaRecord, headers: RequestHeaders, *, names: Names, lane: Lane, now_s: float
) -> OutRecord | None:
    """Return the record for the fallback version: same id, payload and deadline, with the attempt counted up.

    None if the record has no fallback, or no time is left. The new record has no fallback, so that no two versions
    can hand a request to each other.
    """
    if headers.fallback is None or (headers.deadline_s is not None and now_s >= headers.deadline_s):
        return None
    return _moved(record, headers, headers.fallback, names=names, lane=lane)


def is_movable(headers: RequestHeaders) -> bool:
    """Return whether a record may go to another version: it is no shadow copy, and its version was not pinned."""
    return not headers.is_copy and (headers.fallback is not None or headers.rollout is not None)


def rerouted_record(
    record: KafkaRecord, headers: RequestHeaders, *, to_version: str, names: Names, lane: Lane
) -> OutRecord | None:
    """Return the record that moves a request of an abandoned version to `to_version`; None if it may not move."""
    if not is_movable(headers):
        return None
    return _moved(record, headers, to_version, names=names, lane=lane)


def _moved(record: KafkaRecord, headers: RequestHeaders, to_version: str, *, names: Names, lane: Lane) -> OutRecord:
    kept = [(name, value) for name, value in record.headers if name not in _REPLACED]
    kept += [
        ("ce_modelversion", to_version.encode()),
        ("ce_attempt", str(headers.attempt + 1).encode()),
        (FALLEN_BACK_FROM, (headers.version or "").encode()),
    ]
    key = record.key or headers.request_id.encode()
    max_run = run_limit_of(headers, key, most=STICKY_RECORDS)
    topic = names.work_topic(headers.model or "", to_version, lane)
    return OutRecord(topic, key, record.value or b"", kept, max_run=max_run)


def is_under_trial(headers: RequestHeaders) -> bool:
    """Return whether no client depends on this version for the request: another one answers it, or has answered it."""
    return headers.fallback is not None or headers.is_copy


def is_overdue(headers: RequestHeaders, *, now_s: float) -> bool:
    """Return whether a request has waited so long for the version under trial that the other one should have it now."""
    if headers.fallback is None or headers.deadline_s is None:
        return False
    return now_s > headers.accepted_s + (headers.deadline_s - headers.accepted_s) * _WAIT_SHARE
