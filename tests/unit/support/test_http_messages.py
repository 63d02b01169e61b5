"""Ambiguous messages are refused or read in one way, whatever the packets that they come in."""

import pytest

from tests.support.echo_server import echoing
from tests.support.http_messages import FOLLOWER, READ, REFUSED, Read, Refused, answers_to


def packets_of(sent: bytes) -> list[list[bytes]]:
    """The message whole, its head and body apart, and byte by byte."""
    head, end, body = sent.partition(b"\r\n\r\n")
    return [[sent], [head + end, body], [sent[index : index + 1] for index in range(len(sent))]]


@pytest.mark.parametrize("message", REFUSED, ids=lambda message: message.name)
async def test_an_ambiguous_message_is_refused_and_nothing_is_read_after_it(message: Refused) -> None:
    """Guards `check_head` in `on_headers_complete`; most of these are 200 when it is taken out."""
    async with echoing() as port:
        for packets in packets_of(message.sent):
            answers = await answers_to(port, *packets, FOLLOWER)
            assert [status for status, _ in answers] in [[status] for status in message.statuses], packets
            assert answers[0][1]["detail"]


@pytest.mark.parametrize("message", READ, ids=lambda message: message.name)
async def test_a_message_with_one_meaning_is_read_whole(message: Read) -> None:
    """Guards the fresh parser in `_parse`; fails (the body is read as a request) when `_ignored_upgrade` is not set."""
    async with echoing() as port:
        for packets in packets_of(message.sent):
            answers = await answers_to(port, *packets, FOLLOWER)
            assert [status for status, _ in answers] == ([200] if message.closes else [200, 200]), (packets, answers)
            assert answers[0][1]["path"] == "/echo"
            assert answers[0][1]["body"].encode("latin-1") == message.body
            if not message.closes:
                assert answers[1][1]["path"] == "/livez"


async def test_a_message_that_is_refused_waits_for_the_answers_before_it() -> None:
    """Guards the order of `_refuse`; fails (400 alone) when the refusal is sent at once."""
    asked = b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    bad = b"GET / HTTP/1.1\r\n\r\n"
    async with echoing() as port:
        answers = await answers_to(port, asked % 1 + asked % 2 + bad + asked % 3)
    assert [status for status, _ in answers] == [200, 200, 400]
    assert [answer["path"] for _, answer in answers[:2]] == ["/1", "/2"]


async def test_a_body_that_breaks_off_in_the_pipeline_is_refused_in_its_turn() -> None:
    asked = b"POST /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    bad = b"POST /2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n"
    async with echoing() as port:
        answers = await answers_to(port, asked + bad + asked)
    assert [status for status, _ in answers] == [200, 400]


async def test_trailers_become_no_headers() -> None:
    message = next(message for message in READ if message.name == "trailers")
    async with echoing() as port:
        answers = await answers_to(port, message.sent, FOLLOWER)
    assert answers[0][1]["headers"] == ["host", "transfer-encoding"]
