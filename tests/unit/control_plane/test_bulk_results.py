"""Records on the results topic that name a bulk job and are none of its results: they do not end it."""

from collections.abc import Sequence

import pytest

from control_plane.bulk.chunks import Chunk
from control_plane.bulk.job import BulkJob, JobSpec
from inferlane.contracts.naming import Names
from inferlane.runtime.config import load_settings
from tests.support.fakes.records import FakeRecord

SPEC = JobSpec(model="iris", version=None, classes=(), stall_timeout_s=1.0)


@pytest.fixture
def job() -> BulkJob:
    """A job with one request of one row on its way."""
    made = BulkJob(load_settings().kafka, Names(), SPEC, on_progress=lambda _: None)
    made._sequence_of["r"] = 0
    made._sent[0] = Chunk(first_row=0, row_count=1, tensors={}, positions=(0,), faults={}, rejects=())
    return made


def record(job: BulkJob, *headers: tuple[str, bytes]) -> FakeRecord:
    return FakeRecord(value=b"", headers=(("ce_batchid", job._batch_id.encode()), *headers))


@pytest.mark.parametrize(
    "headers", [[("ce_id", b"\xff")], [("ce_id", b"r"), ("ce_deadline", b"x")], [("ce_id", b"r"), ("ce_id", b"r")]]
)
def test_a_record_that_cannot_be_read_is_skipped_and_counted(
    job: BulkJob, headers: Sequence[tuple[str, bytes]]
) -> None:
    job._take(record(job, *headers))  # type: ignore[arg-type]  # of the same shape
    assert job._sent
    assert "1 records that name this job are no results" in job._said_of_unreadable()


def test_a_result_without_a_status_or_with_odd_text_counts_as_failed(job: BulkJob) -> None:
    job._take(record(job, ("ce_id", b"r"), ("ce_errorcode", b"\xff")))  # type: ignore[arg-type]  # as above
    assert (job._report.failed, job._report.succeeded) == (1, 0)
