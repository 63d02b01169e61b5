"""Commits that the broker refuses are tried again, and not without a pause."""

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError

from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.consumer import FetchedBatch, LaneConsumer

PARTITION = TopicPartition("t", 0)
TRIES = 3


class DenyingConsumer:
    """A broker that refuses each commit at once."""

    def __init__(self) -> None:
        self.commits = 0
        self.was_tried = asyncio.Event()

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {PARTITION.partition}

    async def commit(self, _offsets: object) -> None:
        self.commits += 1
        self.was_tried.set()
        raise GroupAuthorizationFailedError("t")


async def test_a_hurried_consumer_pauses_between_commits_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the pause: without it the loop tries as fast as the broker refuses, for a minute."""
    settings = load_settings(commit_interval_s=3_600.0, stuck_after_s=7_200.0)
    consumer: Any = LaneConsumer(settings.kafka, topic="t", group="g")
    consumer._consumer = denying = DenyingConsumer()
    consumer._attempts._hurried_until_s = float("inf")
    pauses: list[float] = []
    monkeypatch.setattr(
        asyncio.get_running_loop(), "call_later", lambda delay_s, again: (pauses.append(delay_s), again())
    )
    committing = asyncio.create_task(consumer._commit_for_ever())
    consumer.finish(FetchedBatch([], consumer._tracker.begin({PARTITION: 5})))
    while denying.commits < TRIES:
        denying.was_tried.clear()
        await denying.was_tried.wait()
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    assert len(pauses) >= TRIES - 1
    assert set(pauses) == {settings.kafka.commit_interval_s}
    assert consumer._tracker.take_committable() == {PARTITION: 5}
