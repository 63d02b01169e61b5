"""The pauses of a bulk job: a share of the core while clients are about, and none otherwise."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from control_plane.bulk import client_watch
from control_plane.bulk.client_watch import SHARE, WORK_S, CorePace, PacedSteps
from inferlane.runtime.config import load_settings

STEPS = st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 0.05)), max_size=50)
"""CPU time and waiting of one step after the other, in seconds."""


def run(pace: CorePace, steps: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Take the steps with the pauses between them; return time, CPU time and the time of all pauses."""
    now_s = cpu_s = paused_s = 0.0
    for worked_s, waited_s in steps:
        now_s += worked_s + waited_s
        cpu_s += worked_s
        pause_s = pace.pause_s(now_s=now_s, cpu_s=cpu_s)
        assert pause_s >= 0
        if pause_s:
            now_s += pause_s
            paused_s += pause_s
            pace.begin(now_s=now_s, cpu_s=cpu_s)
    return now_s, cpu_s, paused_s


@given(STEPS)
def test_a_job_uses_at_most_its_share_of_a_core_while_clients_are_about(steps: Sequence[tuple[float, float]]) -> None:
    pace = CorePace(now_s=0.0, cpu_s=0.0)
    pace.has_clients = True
    now_s, cpu_s, _ = run(pace, steps)
    assert cpu_s <= SHARE * now_s + WORK_S + 1e-9


@given(STEPS)
def test_a_job_never_pauses_while_no_client_is_about(steps: Sequence[tuple[float, float]]) -> None:
    assert run(CorePace(now_s=0.0, cpu_s=0.0), steps)[2] == 0.0


@given(STEPS)
def test_a_job_that_waits_for_a_third_of_its_work_pauses_no_more(steps: Sequence[tuple[float, float]]) -> None:
    pace = CorePace(now_s=0.0, cpu_s=0.0)
    pace.has_clients = True
    assert run(pace, [(worked_s, worked_s / 2) for worked_s, _ in steps])[2] == 0.0


@given(STEPS)
def test_nothing_is_paid_later_for_what_was_done_before_a_client_came(before: Sequence[tuple[float, float]]) -> None:
    pace = CorePace(now_s=0.0, cpu_s=0.0)
    now_s, cpu_s, _ = run(pace, before)
    pace.has_clients = True
    pause_s = pace.pause_s(now_s=now_s + 0.006, cpu_s=cpu_s + 0.006)
    assert pause_s == pytest.approx(0.006 / SHARE - 0.006)


@given(st.floats(0, 10))
def test_time_without_work_is_not_saved_up(waited_s: float) -> None:
    pace = CorePace(now_s=0.0, cpu_s=0.0)
    pace.has_clients = True
    pace.pause_s(now_s=waited_s + 0.006, cpu_s=0.006)
    now_s = max(waited_s + 0.006, 0.006 / SHARE)
    pace.begin(now_s=now_s, cpu_s=0.006)
    assert pace.pause_s(now_s=now_s + 0.006, cpu_s=0.012) == pytest.approx(0.006 / SHARE - 0.006)


async def test_pauses_do_not_grow_where_other_tasks_of_the_process_work_through_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `begin` after a pause: a job in a busy process paused for 26 s in a row, and gave its results up."""
    # All the time, pauses too, the process has more CPU time than a whole core.
    cores = 1.2
    clock = SimpleNamespace(monotonic=time.monotonic, process_time=lambda: cores * time.monotonic())
    monkeypatch.setattr(client_watch, "time", clock)
    steps = PacedSteps()
    steps.pace.note_look(has_clients=True)
    worked_s, since_s = 0.0, time.monotonic()
    for _ in range(12):
        await asyncio.sleep(WORK_S)
        worked_s += time.monotonic() - since_s
        await steps.pause()
        since_s = time.monotonic()
    # A machine that stops between two looks at the clock makes a pause longer; growing ones are a hundred times that.
    assert 0 < steps.paused_s <= 2 * worked_s * (cores / SHARE - 1)


async def test_the_watch_ends_although_a_client_of_the_broker_suppressed_its_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards `over`: a job of a few rows ended while its watch closed a client, and waited for the watch for ever."""
    closing, over = asyncio.Event(), asyncio.Event()

    async def closes_its_client(*_: Any) -> list[TopicPartition]:
        closing.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return []

    class NoRecords:
        async def end_offsets(self, _: Any) -> dict[TopicPartition, int]:
            return {}

    monkeypatch.setattr(client_watch, "partitions_of", closes_its_client)
    pace = CorePace(now_s=0.0, cpu_s=0.0)
    watch = asyncio.create_task(
        client_watch.watch_clients(load_settings().kafka, "topic", NoRecords(), pace, over)  # type: ignore[arg-type]  # as aiokafka's
    )
    await closing.wait()
    over.set()
    watch.cancel()
    async with asyncio.timeout(10):
        await watch
