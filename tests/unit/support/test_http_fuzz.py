"""The fuzzer's own parts: what it calls a leak, and that it can draw for ever."""

import random

from tests.http_fuzz.clients import Tally, _judge
from tests.http_fuzz.messages import draw


def test_an_answer_with_another_marker_or_none_is_a_leak() -> None:
    tally = Tally()
    _judge("client-1-2", 404, b'"no prediction client-1-2"', tally)
    _judge("client-1-3", 502, b"<html>", tally)
    assert (tally.answers, tally.unanswered, tally.leaks) == (1, 1, [])
    for status, body in [
        (404, b"client-1-2"),
        (400, b"undecodable"),
        (200, b"client-1-4 attacker-1-1"),
        (503, b"client-9-9"),
    ]:
        _judge("client-1-4", status, body, tally)
    assert len(tally.leaks) == 4


def test_drawn_messages_differ_and_are_sent_whole() -> None:
    draws = random.Random(1)
    drawn = {b"".join(draw(draws, b"attacker-1-1")) for _ in range(500)}
    assert len(drawn) > 400
    assert any(b"Upgrade: h2c" in message for message in drawn)
