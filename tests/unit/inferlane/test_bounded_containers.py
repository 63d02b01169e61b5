"""What clients and foreign records can make us remember has a bound, and what is past it is refused or forgotten."""

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from dashboards.live.dead_letter_tally import DeadLetterTally
from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.naming import Names
from inferlane.contracts.outcomes import OutcomeSummary, decode_summary, encode_summary
from inferlane.errors import DecodeError, OverloadedError
from inferlane.runtime.config import load_settings
from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.split_table import SplitTable
from producer_api.app import HotPath
from producer_api.http.asgi import PREDICT_PATH
from producer_api.http.request_body import BodyMemory, read_body
from router.version_windows import VersionWindows
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord
from workers.outcome_summaries import OutcomeRecorder, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOW_S = 1_000_003.0


def summary(sequence: int, **fields: Any) -> OutcomeSummary:
    return OutcomeSummary(
        model="iris", version="v1", worker_id="w", sequence=sequence, from_s=NOW_S - 1, to_s=NOW_S, **fields
    )


def test_a_window_tells_a_bounded_number_of_names_apart_and_counts_the_rest() -> None:
    windows = VersionWindows(slot_s=5, window_s=60)
    for sequence in range(30):
        names = {f"{sequence}-{number}": 1 for number in range(1_000)}
        windows.apply(summary(sequence, classes=names | {"common": 100}, failures=names), now_s=NOW_S)
    (slot,) = windows.changed(10)
    for counts, total in ((slot.classes, 30 * 1_100), (slot.failures, 30 * 1_000)):
        assert len(counts) <= 1_000
        assert sum(counts.values()) == total
    assert slot.classes["common"] == 3_000


@pytest.mark.parametrize("name", ["classes", "failures"])
def test_a_summary_with_a_name_of_any_length_is_refused(name: str) -> None:
    raw = encode_summary(msgspec.structs.replace(summary(1), **{name: {"x" * 1_000_000: 1}}))
    with pytest.raises(DecodeError) as caught:
        decode_summary(raw)
    assert len(str(caught.value)) < 700


def test_a_worker_cuts_the_labels_of_its_model_so_that_its_summaries_are_read() -> None:
    recorder = OutcomeRecorder(
        model="m",
        version="v",
        worker_id="w",
        clock=FakeClock(),
        classes=("a" * 500 + "1", "a" * 500 + "2", "other"),
        usage=lambda: Usage(cpu_s=0.0, memory_bytes=0),
    )
    nothing = np.empty(0)
    recorder.observe_batch(
        statuses={},
        rows=5,
        queue_wait_s=nothing,
        inference_s=nothing,
        total_s=nothing,
        labels=np.array([0, 1, 2, 7, -3]),
    )
    taken = recorder.take_summary()
    assert taken is not None
    assert decode_summary(encode_summary(taken)).classes == {"a" * 200: 2, "other": 3}


async def test_splits_of_models_that_nobody_has_are_not_kept_without_end() -> None:
    table = SplitTable()
    for number in range(3_000):
        raw = msgspec.json.encode({"model": f"m{number}", "weights": {"v1": 1.0}})
        await table.apply(number, f"m{number}".encode(), raw)
    assert table.get("m0") is not None
    assert len(table._splits) == 1_000
    await table.apply(3_000, b"m0", msgspec.json.encode({"model": "m0", "weights": {"v2": 1.0}}))
    split = table.get("m0")
    assert split is not None
    assert split.weights == {"v2": 1.0}


@pytest.mark.parametrize(
    "split",
    [
        {"model": "m" * 1_000, "weights": {"v1": 1.0}},
        {"model": "m", "weights": {"v" * 1_000: 1.0}},
        {"model": "m", "weights": {f"v{number}": 1.0 for number in range(2_000)}},
        {"model": "m", "weights": {"v1": -1.0}},
    ],
)
async def test_a_split_that_is_out_of_bounds_changes_nothing(split: dict[str, Any]) -> None:
    table = SplitTable()
    await table.apply(0, b"m", msgspec.json.encode(split))
    assert table._splits == {}


async def test_cancelled_requests_are_not_remembered_without_end() -> None:
    cancelled = CancelledRequests(None, clock=FakeClock(), names=Names())  # type: ignore[arg-type]  # not asked
    for number in range(100_000):
        await cancelled._take(f"{1e12 + number} id-{number}".encode())
    assert len(cancelled._until_s) <= 20_000
    assert "id-99999" in cancelled


def test_reasons_of_dead_letters_that_are_none_of_ours_are_counted_together() -> None:
    box = DeadLetterTally(load_settings().kafka, load_settings().stack.names, clock=FakeClock())
    for number in range(2_000):
        cause = Cause(reason=f"made-up-{number}", detail="", attempts=1)
        letter = dead_letter(FakeRecord(value=b"{}"), cause, topic="dead", limit_bytes=1_000)
        box.add([FakeRecord(value=letter.value, headers=tuple(letter.headers), offset=number)])
    assert box._by_reason == {"other": 2_000}


class Endpoint:
    """Reads a body and holds it while the next call comes, as calls that wait do."""

    def __init__(self) -> None:
        self.refused: list[OverloadedError] = []
        self.following: list[Callable[[], Awaitable[None]]] = []

    async def __call__(self, scope: Any, receive: Any, _send: Any) -> None:
        try:
            await read_body(scope, receive, 1_000)
        except OverloadedError as error:
            self.refused.append(error)
            return
        if self.following:
            await self.following.pop()()


async def test_the_bodies_of_all_calls_under_way_have_one_limit() -> None:
    """10,000 clients that wait, each with a body of 8 MB, would hold 80 GB."""
    endpoint, held = Endpoint(), BodyMemory(limit_bytes=1_000)
    path = HotPath(None, {PREDICT_PATH: endpoint}, held=held)

    async def call() -> None:
        chunks = [b"x" * 100, b"x" * 300]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        await path({"type": "http", "method": "POST", "path": PREDICT_PATH, "headers": []}, receive, None)

    endpoint.following = [call, call]
    await call()
    (error,) = endpoint.refused
    assert "800 bytes" in str(error) or "900 bytes" in str(error)
    assert held.held_bytes == 0
    endpoint.following = [call]
    await call()
    assert len(endpoint.refused) == 1
