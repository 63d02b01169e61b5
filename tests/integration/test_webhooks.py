"""Callbacks on a real broker and to a real receiver: each result arrives, signed, whatever happens on the way."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from control_plane.topic_admin import create_topics
from inferlane.contracts.callbacks import DUE, FIRST_TRIED, TRIES, CallbackOrder, callback_record
from inferlane.contracts.naming import Names
from inferlane.contracts.results import Result, Status
from inferlane.errors import ConfigurationError, DecodeError
from inferlane.runtime.config import Settings
from inferlane.runtime.dead_letter_replay import DeadLetterFilter, FoundDeadLetter, matching_dead_letters, open_replayer
from inferlane.runtime.kafka.producer import BatchProducer
from tests.support.brokers import Broker
from tests.support.parts import eventually, free_port, is_ready, running
from tests.support.receiver import Receiver, listening, make_receiver
from webhook_sender.dispatcher import GONE, UNDELIVERED
from webhook_sender.main import serve
from webhook_sender.signing import Signer, parse_secrets, secret_of_key, written

pytestmark = pytest.mark.timeout(300)

NAMES = Names()
REPOSITORY = Path(__file__).parents[2]
REDIRECTS = (301, 302, 303, 307, 308)
OLD, NEW = (written(bytes([number]) * 32) for number in (1, 2))


def make_settings(broker: Broker, **overrides: object) -> Settings:
    values: dict[str, Any] = {
        "webhooks": True,
        "webhook_secret": SecretStr(f"{NEW},{OLD}"),
        "webhook_allowed_networks": "127.0.0.0/8",
        "webhook_first_retry_s": 0.1,
        "webhook_give_up_s": 600.0,
        "webhook_timeout_s": 30.0,
        "ingress_partitions": 2,
        "drain_deadline_s": 1.0,
    }
    return broker.settings(**values | overrides)


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[asyncio.Event]:
    """Run the webhooks process until the block ends, or until the event that it yields is set."""
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, stop))
    try:
        yield stop
        assert not task.done() or stop.is_set(), task
    finally:
        stop.set()
        await task


def make_result(number: int, **changes: Any) -> Result:
    values: dict[str, Any] = {"status": Status.FAILED, "error_code": "model_error", "error_detail": "it broke"}
    return Result(
        request_id=f"r-{number}", model="iris", version="v1", finished_s=1_700_000_000.5, **(values | changes)
    )


async def write(settings: Settings, url: str, results: Sequence[Result]) -> list[str]:
    """Write callbacks to their topic as a worker does; returns their ids."""
    producer = BatchProducer(settings.kafka)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    await producer.start()
    try:
        records = [callback_record(NAMES.callbacks, result, CallbackOrder(url=url), classes={}) for result in results]
        await producer.send(records)
    finally:
        await producer.close()
    return [f"{result.key}-1" for result in results]


async def dead_letters(settings: Settings, reason: str) -> list[FoundDeadLetter]:
    selection = DeadLetterFilter(reason=reason, since_s=0.0)

    def on_skipped(error: DecodeError) -> None:
        raise error

    async with aclosing(
        matching_dead_letters(settings.kafka, settings.stack.names, selection, on_skipped=on_skipped)
    ) as found:
        return [letter async for letter in found]


async def has_received(receiver: Receiver, path: str, ids: list[str]) -> None:
    async def is_so() -> bool:
        return set(receiver.ids(path)) >= set(ids)

    await eventually(is_so)


async def has_dead_letters(settings: Settings, reason: str, count: int) -> list[FoundDeadLetter]:
    found: list[FoundDeadLetter] = []

    async def is_so() -> bool:
        found[:] = await dead_letters(settings, reason)
        return len(found) >= count

    await eventually(is_so)
    return found


async def test_a_callback_is_signed_with_every_secret_and_for_its_key(broker: Broker) -> None:
    settings = make_settings(broker)
    async with listening(make_receiver()) as receiver, sending(settings):
        ids = await write(settings, receiver.url("/signed?x=1"), [make_result(1), make_result(2, caller="shop")])
        await has_received(receiver, "/signed", ids)
    open_call, shops_call = (next(c for c in receiver.received if c.callback_id == name) for name in ids)
    for secret in (OLD, NEW):
        body = Webhook(secret).verify(open_call.body, open_call.headers)
        assert body["type"] == "prediction.failed"
        assert body["data"]["error"] == {"code": "model_error", "detail": "it broke"}
        of_shop = written(secret_of_key(parse_secrets(secret)[0], "shop"))
        assert Webhook(of_shop).verify(shops_call.body, shops_call.headers)["data"]["request_id"] == "r-2"
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(secret).verify(shops_call.body, shops_call.headers)
    assert open_call.headers["content-type"] == "application/json"
    assert "accept-encoding" not in open_call.headers


async def test_a_receiver_that_was_down_gets_every_result_and_one_restart_loses_none(broker: Broker) -> None:
    settings = make_settings(broker)
    receiver = make_receiver()
    async with sending(settings):
        ids = await write(settings, receiver.url("/down"), [make_result(number) for number in range(50)])

        async def has_failed() -> bool:
            return await waiting(settings, stage=2) > 0

        await eventually(has_failed)
    async with listening(receiver), sending(settings):
        await has_received(receiver, "/down", ids)


async def test_a_process_that_is_killed_loses_no_callback_and_sends_again_what_was_not_answered(broker: Broker) -> None:
    settings = make_settings(broker, ops_port=free_port(), webhook_first_retry_s=1.0)
    secret = {"INFERLANE_WEBHOOK_SECRET": NEW, "PYTHONPATH": str(REPOSITORY)}
    environment = {**os.environ, **settings.environment(), **secret}
    argv = [sys.executable, "-m", "control_plane", "webhooks"]
    receiver = make_receiver()

    def killed_at_the_end() -> AbstractAsyncContextManager[int]:
        ops = f"http://127.0.0.1:{settings.ports.ops_port}"
        return running(argv, lambda: is_ready(ops), environment=environment)

    async with killed_at_the_end():
        ids = await write(settings, receiver.url("/slow"), [make_result(number) for number in range(30)])

        async def has_failed() -> bool:
            return await waiting(settings, stage=1) >= len(ids)

        # Nobody is there: every callback waits for its second try.
        await eventually(has_failed)
    async with listening(receiver):
        async with killed_at_the_end():

            async def is_called() -> bool:
                return len(receiver.received) > 0

            await eventually(is_called)
        unanswered = set(receiver.ids("/slow"))
        first_calls = len(receiver.received)
        receiver.released.set()
        async with killed_at_the_end():

            async def has_all_answers() -> bool:
                answered = set(receiver.ids("/slow")[first_calls:])
                return answered | unanswered == set(ids) and unanswered <= answered

            await eventually(has_all_answers)


async def waiting(settings: Settings, *, stage: int) -> int:
    """How many records were ever written to a topic of retries."""
    from inferlane.runtime.kafka.clients import make_consumer, partitions_of  # noqa: PLC0415

    topic = settings.stack.names.callback_retries(stage)
    consumer = make_consumer(settings.kafka, group=None)
    await consumer.start()
    try:
        return sum((await consumer.end_offsets(await partitions_of(settings.kafka, topic))).values())
    finally:
        await consumer.stop()


async def test_a_slow_receiver_does_not_hold_up_others(broker: Broker) -> None:
    settings = make_settings(broker, webhook_calls_per_host=2)
    async with listening(make_receiver()) as slow, listening(make_receiver()) as quick, sending(settings):
        slow_ids = await write(settings, slow.url("/slow"), [make_result(number) for number in range(100)])
        await has_received(slow, "/slow", slow_ids[:0])
        quick_ids = await write(settings, quick.url("/quick"), [make_result(number) for number in range(100, 200)])
        await has_received(quick, "/quick", quick_ids)
        # It never has more calls than it may have, and gets everything once it answers.
        assert len(slow.received) <= 2
        slow.released.set()
        await has_received(slow, "/slow", slow_ids)


async def test_a_receiver_that_always_fails_is_given_up_and_a_replay_is_delivered(broker: Broker) -> None:
    settings = make_settings(broker, webhook_give_up_s=1.0)
    async with listening(make_receiver()) as receiver, sending(settings):
        receiver.answers = lambda _path: 500
        ids = await write(settings, receiver.url("/always-500"), [make_result(900)])
        (letter,) = await has_dead_letters(settings, UNDELIVERED, 1)
        assert letter.letter.cause.attempts >= 2
        assert "500" in letter.letter.cause.detail
        assert letter.headers.request_id == "r-900"
        tried = len(receiver.ids("/always-500"))
        receiver.answers = lambda _path: 200
        async with open_replayer(settings.api, settings.kafka, settings.store, settings.stack) as replayer:
            await replayer.send(letter.letter, to_version=None)

        async def is_tried_again() -> bool:
            return len(receiver.ids("/always-500")) > tried

        await eventually(is_tried_again)
    assert set(receiver.ids("/always-500")) == set(ids)


async def test_a_receiver_that_answers_410_is_not_called_again(broker: Broker) -> None:
    settings = make_settings(broker)
    async with listening(make_receiver()) as receiver, sending(settings):
        receiver.answers = lambda _path: 410
        await write(settings, receiver.url("/gone"), [make_result(700)])
        await has_dead_letters(settings, GONE, 1)
        await write(settings, receiver.url("/gone"), [make_result(701)])
        await has_dead_letters(settings, GONE, 2)
    assert receiver.ids("/gone") == ["r-700-1"]


@pytest.mark.parametrize(("number", "said"), [(900, "3600"), (901, "Fri, 01 Jan 2100 00:00:00 GMT")])
async def test_a_receiver_that_names_a_time_is_not_called_before(broker: Broker, number: int, said: str) -> None:
    """Guards `stage_after`: by the retries of others it would be called five times before it is given up."""
    settings = make_settings(broker, webhook_give_up_s=20.0)
    async with listening(make_receiver()) as receiver, sending(settings):
        receiver.answers, receiver.retry_after = lambda _path: 429, said
        await write(settings, receiver.url(f"/busy-{number}"), [make_result(number)])

        async def is_given_up() -> bool:
            return f"r-{number}" in {one.headers.request_id for one in await dead_letters(settings, UNDELIVERED)}

        await eventually(is_given_up)
    assert receiver.ids(f"/busy-{number}") == [f"r-{number}-1"]


async def test_no_redirect_is_followed(broker: Broker) -> None:
    settings = make_settings(broker, webhook_give_up_s=0.5)
    async with listening(make_receiver()) as inside, listening(make_receiver()) as receiver, sending(settings):
        receiver.location = inside.url("/inside")
        for status in REDIRECTS:
            receiver.answers = lambda path: int(path.removeprefix("/"))
            await write(settings, receiver.url(f"/{status}"), [make_result(status)])

        async def are_given_up() -> bool:
            ids = {letter.headers.request_id for letter in await dead_letters(settings, UNDELIVERED)}
            return {f"r-{status}" for status in REDIRECTS} <= ids

        await eventually(are_given_up)
    assert not inside.received


# As an address, a name, and in the ways of old programs; through IPv6; each with an id of its own on the shared broker.
@pytest.mark.parametrize(
    ("number", "host"),
    list(
        enumerate(
            ("127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]"),
            start=500,
        )
    ),
)
async def test_no_address_inside_is_called_by_whatever_name(broker: Broker, number: int, host: str) -> None:
    """What a name leads to is known when the connection is made, and that is when it is checked."""
    settings = make_settings(broker, webhook_allowed_networks="10.0.0.0/8")
    async with listening(make_receiver()) as inside, sending(settings):
        await write(settings, inside.url("/inside", host=host), [make_result(number)])

        async def is_refused() -> bool:
            return f"r-{number}" in {one.headers.request_id for one in await dead_letters(settings, "callback_refused")}

        await eventually(is_refused)
    assert not inside.received


async def test_an_answer_without_end_costs_no_more_than_the_time_of_a_call(broker: Broker) -> None:
    settings = make_settings(broker, webhook_timeout_s=0.5, webhook_give_up_s=0.5)
    port = free_port()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(b"HTTP/1.1 500 No\r\nx: ")
            while True:
                writer.write(b"y")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with await asyncio.start_server(drip, "127.0.0.1", port), sending(settings):
        await write(settings, f"http://127.0.0.1:{port}/endless", [make_result(800)])

        async def is_given_up() -> bool:
            return "r-800" in {one.headers.request_id for one in await dead_letters(settings, UNDELIVERED)}

        await eventually(is_given_up)


async def test_what_is_no_callback_becomes_a_dead_letter_and_holds_nobody_up(broker: Broker) -> None:
    from inferlane.contracts.kafka_record import OutRecord  # noqa: PLC0415

    settings = make_settings(broker)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    producer = BatchProducer(settings.kafka)
    await producer.start()
    await producer.send([OutRecord(NAMES.callbacks, b"k", b"\xff", [("ce_callbackurl", b"\xff")])])
    await producer.close()
    async with listening(make_receiver()) as receiver, sending(settings):
        await has_dead_letters(settings, DecodeError.code, 1)
        await has_received(receiver, "/after", await write(settings, receiver.url("/after"), [make_result(1)]))


async def test_no_record_ends_the_process_or_holds_up_those_behind_it(broker: Broker) -> None:
    """Headers without a value ended the process at each start; a record due in the year 9999 was waited for."""
    from inferlane.contracts.kafka_record import OutRecord  # noqa: PLC0415

    settings = make_settings(broker, ingress_partitions=1)
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    async with listening(make_receiver()) as receiver:
        good = callback_record(NAMES.callbacks, make_result(0), CallbackOrder(url=receiver.url("/due")), classes={})
        without_value: Any = [(name, None if name == "ce_callbackurl" else value) for name, value in good.headers]
        odd = [
            without_value,
            [*good.headers, (TRIES, b"9" * 4_300)],
            [*good.headers, (FIRST_TRIED, b"0001-01-01T00:00:00Z")],
        ]
        never = [*good.headers, (DUE, b"9999-12-31T00:00:00Z")]
        producer = BatchProducer(settings.kafka)
        await producer.start()
        stages = (NAMES.callbacks, NAMES.callback_retries(1))
        for topic in stages:
            await producer.send([OutRecord(topic, b"k", good.value, headers) for headers in (*odd, never)])
        await producer.close()
        async with sending(settings):
            await has_dead_letters(settings, DecodeError.code, len(odd) * len(stages))

            async def is_sent() -> bool:
                return len(receiver.ids("/due")) >= len(stages)

            await eventually(is_sent)
            await has_received(receiver, "/after", await write(settings, receiver.url("/after"), [make_result(1)]))


async def test_a_process_without_a_secret_says_so(broker: Broker) -> None:
    with pytest.raises(ConfigurationError, match="INFERLANE_WEBHOOK_SECRET"):
        await serve(make_settings(broker, webhook_secret=None), asyncio.Event())
    with pytest.raises(ConfigurationError, match="secret 2"):
        Signer(parse_secrets(f"{NEW},whsec_{base64.b64encode(b'short').decode()}"))
    with pytest.raises(ConfigurationError, match="INFERLANE_WEBHOOKS=on"):
        await serve(make_settings(broker, webhooks=False), asyncio.Event())
    assert json.loads(json.dumps(settings_environment(broker))).get("INFERLANE_WEBHOOK_SECRET") is None


def settings_environment(broker: Broker) -> dict[str, str]:
    return make_settings(broker).environment()
