"""A bulk job on a real broker: it pauses while requests of clients are written, and for nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest

from control_plane.bulk.chunks import Chunk, chunk_of_tensors
from control_plane.bulk.job import BulkJob, JobReport, JobSpec
from control_plane.topic_admin import create_topics
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.redis.connection import connect
from models.training import INPUT
from tests.support.brokers import Broker
from tests.support.parts import embedded_store
from tests.support.version_pools import NAMES, FixedModel, VersionPools

pytestmark = pytest.mark.timeout(400)

ROWS = 1_000
# More than a job has when it sees the first client; a test that never sees one ends with them.
MOST_CHUNKS = 100_000


@pytest.fixture
async def pools(broker: Broker) -> AsyncIterator[VersionPools]:
    async with embedded_store() as url, connect(url) as redis:
        settings = broker.settings(redis_url=url, ingress_partitions=1, work_partitions=1)
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
        producer = BatchProducer(settings.kafka)
        await producer.start()
        try:
            yield VersionPools(settings, redis=redis, producer=producer, splits={})
        finally:
            await producer.close()


def chunks(job: BulkJob, *, until_looks: int = 0, until_it_paused: bool = False) -> Iterator[Chunk]:
    """Yield chunks until the job has done what is waited for."""
    for number in range(MOST_CHUNKS):
        is_done = job.steps.paused_s > 0 if until_it_paused else job.steps.pace.looks >= until_looks
        if number and is_done:
            return
        rows = np.ones((ROWS, 4), np.float32)
        yield chunk_of_tensors({INPUT: rows}, first_row=number * ROWS, row_count=ROWS)


def make_job(pools: VersionPools) -> BulkJob:
    spec = JobSpec(model="iris", version="v1", classes={}, stall_timeout_s=60)
    return BulkJob(pools.settings.kafka, NAMES, spec, on_progress=lambda _: None)


async def send_requests(pools: VersionPools) -> None:
    while True:
        await pools.send(1)


async def test_a_job_pauses_while_clients_ask_and_loses_no_row(pools: VersionPools) -> None:
    """Guards `watch_clients`: without it, the command takes its whole core from the services that answer clients."""
    async with pools.router(), pools.worker(FixedModel("v1")):
        clients = asyncio.create_task(send_requests(pools))
        job, out = make_job(pools), BytesIO()
        report = await job.run(chunks(job, until_it_paused=True), out)
        clients.cancel()
        with suppress(asyncio.CancelledError):
            await clients
    assert report.paused_s > 0
    rows = [int(line.partition(b",")[0].removeprefix(b'{"row":')) for line in out.getvalue().splitlines()]
    assert rows == list(range(report.succeeded))
    assert report.failed == 0


async def test_a_job_does_not_pause_while_nobody_asks(pools: VersionPools) -> None:
    async with pools.router(), pools.worker(FixedModel("v1")):
        job = make_job(pools)
        report: JobReport = await job.run(chunks(job, until_looks=3), BytesIO())
    assert report.paused_s == 0.0
    assert report.succeeded > 0
