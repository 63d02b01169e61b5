"""A state is logged when it begins and once an interval while it lasts; a line that cannot be written ends nothing."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime import logs
from inferlane.runtime.config import load_settings
from inferlane.runtime.logs import RepeatLimit, configure_logs

FLOOD = 5_000


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process of ours writes, as `configure_logs` sets it up."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    before = list(logging.getLogger().handlers)
    configure_logs(load_settings(log_format="json").stack, service="test")
    yield stream
    logging.getLogger().handlers[:] = before
    structlog.reset_defaults()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now_s[0])
    return now_s


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_library_that_repeats_itself_writes_one_line_an_interval(stderr: io.StringIO, clock: list[float]) -> None:
    """Guards `RecordLimit`: a broker that was away made 110 MB a worker in 100 s."""
    logger = logging.getLogger("aiokafka")
    for number in range(FLOOD):
        logger.error("Failed fetch messages from %d: NodeNotReadyError", number)
    assert [line["event"] for line in lines(stderr)] == ["Failed fetch messages from 0: NodeNotReadyError"]
    clock[0] += logs.INTERVAL_S
    logger.error("Failed fetch messages from %d: NodeNotReadyError", 7)
    assert str(FLOOD - 1) in str(lines(stderr)[-1]["event"])
    logger.error("another state")
    assert lines(stderr)[-1]["event"] == "another state"


def test_an_event_of_ours_says_how_many_like_it_were_left_out(stderr: io.StringIO, clock: list[float]) -> None:
    log = structlog.get_logger("ours")
    for attempt in range(FLOOD):
        log.warning("commit_failed", topic="t", attempt=attempt)
    written = len(lines(stderr))
    assert 1 <= written < 20
    log.warning("commit_failed", topic="another", attempt=1)
    assert lines(stderr)[-1]["topic"] == "another"
    clock[0] += logs.INTERVAL_S
    log.warning("commit_failed", topic="t", attempt=1)
    assert lines(stderr)[-1]["left_out"] == FLOOD - written


@pytest.mark.usefixtures("clock")
def test_words_that_always_differ_are_bounded_too(stderr: io.StringIO) -> None:
    """Guards the limit of an event: what a client may choose would make each line a state of its own."""
    log, library = structlog.get_logger("ours"), logging.getLogger("library")
    for number in range(FLOOD):
        words = "".join(chr(ord("g") + int(digit)) for digit in str(number))
        log.warning("refused", name=words)
        library.error("refused %s", words)
    assert len(lines(stderr)) < 500


@pytest.mark.usefixtures("clock", "stderr")
def test_what_is_asked_for_at_debug_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(load_settings(log_format="json", log_level="DEBUG").stack, service="test")
    for _ in range(200):
        structlog.get_logger("fresh").debug("pool_looked_at", pool="p")
    assert len(lines(stream)) == 200


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_no_line_is_lost_from_the_count(steps: list[tuple[str, float]]) -> None:
    """Whatever comes when: what was written and what was counted is what there was."""
    with pytest.MonkeyPatch.context() as patch:
        now_s = 0.0
        patch.setattr(logs.time, "monotonic", lambda: now_s)
        limit = RepeatLimit(interval_s=10.0)
        written: dict[str, int] = {}
        for state, after_s in steps:
            now_s += after_s
            left_out = limit.let_through(state, most=2)
            if left_out is not None:
                written[state] = written.get(state, 0) + 1 + left_out
        now_s += 11.0
        for state in {state for state, _ in steps}:
            left_out = limit.let_through(state, most=2)
            assert written.get(state, 0) + (left_out or 0) == sum(one == state for one, _ in steps)


def test_the_states_that_are_remembered_are_bounded() -> None:
    limit = RepeatLimit()
    for number in range(5_000):
        limit.let_through(f"state {number}", most=1)
    assert len(limit._seen) <= 1_000


class FullDisk(io.StringIO):
    """A file on it."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_Lines`: a disk that is full raised in whatever logged, and ended the supervisor (seen to fail so)."""
    before = list(logging.getLogger().handlers)
    monkeypatch.setattr("sys.stderr", FullDisk())
    configure_logs(load_settings(log_format="json").stack, service="test")
    try:
        structlog.get_logger("ours").error("no_room")
        logging.getLogger("library").error("no room")
    finally:
        logging.getLogger().handlers[:] = before
        structlog.reset_defaults()
