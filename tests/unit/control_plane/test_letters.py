"""Which dead letters a command is about, and what it shows of them."""

import time

import numpy as np
import pytest
import typer

from control_plane.dead_letter_text import preview, since_seconds
from inferlane.contracts.dead_letters import Cause, dead_letter, headers_of, read_dead_letter
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.v2 import encode_binary_request
from inferlane.runtime.dead_letter_replay import DeadLetterFilter, FoundDeadLetter
from tests.support.fakes.records import FakeRecord

CAUSE = Cause(reason="model_error", detail="d", attempts=1)


def find(record: FakeRecord, *, offset: int = 3) -> FoundDeadLetter:
    out = dead_letter(record, CAUSE, topic="dead", limit_bytes=100_000)
    letter = read_dead_letter(
        FakeRecord(topic=out.topic, offset=offset, key=out.key, value=out.value, headers=tuple(out.headers))
    )
    return FoundDeadLetter(letter, headers_of(letter))


@pytest.mark.parametrize(
    ("chosen", "is_match"),
    [
        ({}, True),
        ({"ids": frozenset({"r", "other"})}, True),
        ({"ids": frozenset({"3"})}, True),
        ({"ids": frozenset({"7"})}, False),
        ({"reason": "model_error", "model": "iris", "version": "v1"}, True),
        ({"reason": "undecodable"}, False),
        ({"model": "digits"}, False),
        ({"version": "v2"}, False),
    ],
)
def test_options_narrow_it_down_together(chosen: dict[str, object], is_match: bool) -> None:
    found = find(FakeRecord(headers=(("ce_id", b"r"), ("ce_model", b"iris"), ("ce_modelversion", b"v1"))))
    assert DeadLetterFilter(since_s=0.0, **chosen).matches(found.letter, found.headers) is is_match  # type: ignore[arg-type]  # fields


@pytest.mark.parametrize(("since", "ago_s"), [("30s", 30), ("15m", 900), ("2h", 7_200), ("1.5d", 129_600)])
def test_a_duration_is_that_long_ago(since: str, ago_s: float) -> None:
    before_s = time.time()
    assert before_s - ago_s <= since_seconds(since) <= time.time() - ago_s


def test_a_moment_is_that_moment_and_no_option_is_before_any_letter() -> None:
    assert since_seconds("2026-01-31T12:00:00Z") == 1_769_860_800.0
    thirty_days_s = 30 * 86_400
    assert since_seconds(None) < time.time() - thirty_days_s


@pytest.mark.parametrize("since", ["", "2", "h", "2 h", "-2h", "yesterday", "2026-01-31T12:00:00"])
def test_what_names_no_moment_is_a_usage_error(since: str) -> None:
    with pytest.raises(typer.BadParameter, match="neither"):
        since_seconds(since)


def test_what_is_kept_by_the_thousand_has_no_value() -> None:
    """Guards the memory of `list` and `replay`: taken out, a month of letters of 8 MiB is held at once."""
    kept = find(FakeRecord(value=b"v" * 50_000, headers=(("ce_id", b"r"), ("h", b"x" * 1_000)))).without_value()
    assert (kept.letter.original.value, kept.letter.original.headers, kept.headers.request_id) == (None, (), "r")


def test_binary_tensors_are_shown_as_numbers_and_text_as_it_is() -> None:
    value, json_length = encode_binary_request({"input": np.arange(12, dtype=np.float32).reshape(3, 4)})
    shown = preview(find(FakeRecord(value=value, headers=((JSON_LENGTH, str(json_length).encode()),))))
    assert shown == "input float32 [3, 4]: [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] …"
    assert preview(find(FakeRecord(value=b'{"instances": [[1]]}'))) == '{"instances": [[1]]}'
    assert preview(find(FakeRecord(value=b"\xff" * 5_000))) == r"\xff" * 2_000 + " …"
    assert preview(find(FakeRecord(value=b"\x00", headers=((JSON_LENGTH, b"9"),)))) == "\x00"
