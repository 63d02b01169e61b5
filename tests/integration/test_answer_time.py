"""A call is answered in its time, whatever is away: broker and store are real, and stand still meanwhile."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.retry import SystemClock
from tests.support.parts import eventually, frozen
from tests.support.running_api import CALL, WAIT_S, running_api

pytestmark = pytest.mark.timeout(180)

# Far more than any call here may take, and less than what the clients of broker and store take to give up.
LIMIT_S = 8.0


@pytest.mark.parametrize("away", [("broker",), ("store",), ("broker", "store")], ids="+".join)
async def test_every_call_is_answered_in_its_time(tmp_path: Path, away: tuple[str, ...]) -> None:
    """Guards each `answer_within`: taken out, its call waits for as long as the clients of broker and store do."""
    async with running_api(tmp_path) as api:
        status, accepted = await api.predict(Prefer="respond-async")
        assert status == 202
        known = f"/v1/predictions/{accepted['request_id']}"
        with frozen(api.pids[name] for name in away):
            async with asyncio.timeout(LIMIT_S):
                first, second, *others = await asyncio.gather(
                    api.predict(),
                    api.predict(Prefer="respond-async"),
                    api.predict(Idempotency_Key="one"),
                    api.predict(Idempotency_Key="one"),
                    api.call("GET", known),
                    api.call("GET", f"{known}?wait_s={WAIT_S}"),
                    api.call("DELETE", known),
                    api.call("POST", "/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1}}),
                    api.call("GET", "/v1/traffic-split"),
                    api.call("GET", "/v1/models"),
                    api.call("GET", "/v1/metrics/v1"),
                )
        assert {status for status, _ in (first, second, *others)} <= {200, 202, 503}
        assert first[0] == second[0] == 503
        assert all(body["detail"] for status, body in (first, second, *others) if status == 503)
        if away == ("store",):
            assert first[1]["code"] == "unconfirmed"
            assert len(first[1]["request_id"]) > 0
            assert "nothing was enqueued" in second[1]["detail"]


async def test_a_request_that_was_never_sent_is_said_not_to_be_enqueued(tmp_path: Path) -> None:
    """Guards `withdraw`: without it the client of a record that still lies here is told that nobody knows."""
    async with running_api(tmp_path) as api:
        with frozen([api.pids["broker"]]):
            async with asyncio.timeout(LIMIT_S):
                status, body = await api.predict()
                assert (status, body["code"]) == (503, "unconfirmed")
                # The first is under way for as long as the broker is; what comes after it waits here.
                status, body = await api.predict()
        assert (status, body["code"]) == (503, "unavailable")
        assert "not enqueued" in body["detail"]


async def post_and_leave(port: int, **headers: str) -> None:
    """Send a predict call that waits for long, see that it is accepted into the process, and close the connection."""
    body = json.dumps({**CALL, "timeout_s": 50}).encode()
    head = ["POST /v1/models/predict HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(body)}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(("\r\n".join(head) + "\r\n\r\n").encode() + body)
    await writer.drain()

    async def waits() -> bool:
        return await waiting_calls(port) == 1

    await eventually(waits)
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_left_its_wait_for_a_result_frees_its_place(tmp_path: Path) -> None:
    """Guards the disconnect of `read_prediction`: one request would hold all places of its model for a minute."""
    async with running_api(tmp_path, max_waiting_requests=10) as api:
        status, accepted = await api.predict(Prefer="respond-async")
        assert status == 202
        port, left = api.settings.api.port, []
        for _ in range(4):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            path = f"/v1/predictions/{accepted['request_id']}?wait_s=50"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            left.append(writer)

        async def all_wait() -> bool:
            return await waiting_calls(port) == len(left)

        async def nobody_waits() -> bool:
            return await waiting_calls(port) == 0

        await eventually(all_wait)
        for writer in left:
            writer.close()
        await eventually(nobody_waits)


async def waiting_calls(port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return int(float(next(line for line in lines if line.startswith("inferlane_api_waiting_requests ")).split()[1]))


async def test_a_client_that_went_away_is_taken_back_if_the_setting_says_so(tmp_path: Path) -> None:
    """Guards `_cancel_abandoned`: without it workers compute for clients that nobody can tell the answer."""
    async with running_api(tmp_path, cancel_on_disconnect=True) as api, connect(api.settings.store.redis_url) as redis:
        cancelled = CancelledRequests(redis, clock=SystemClock(), names=api.settings.stack.names)
        cancelled.start()
        try:
            await post_and_leave(api.settings.api.port)

            async def is_cancelled() -> bool:
                return len(cancelled._until_s) == 1

            await eventually(is_cancelled)
            (request_id,) = cancelled._until_s
            (result,) = await api.store.get([request_id])
            assert result is not None
            assert result.error_code == "cancelled"

            async def nobody_waits() -> bool:
                return await waiting_calls(api.settings.api.port) == 0

            # The text of the metrics is kept for a moment, so the last one may still count the call.
            await eventually(nobody_waits)
        finally:
            await cancelled.close()


@pytest.mark.parametrize(
    ("setting", "headers"), [(False, {}), (True, {"idempotency_key": "k"})], ids=["off", "with a key"]
)
async def test_a_client_that_may_come_back_is_computed_for(
    tmp_path: Path, setting: bool, headers: dict[str, str]
) -> None:
    async with (
        running_api(tmp_path, cancel_on_disconnect=setting) as api,
        connect(api.settings.store.redis_url) as redis,
    ):
        await post_and_leave(api.settings.api.port, **headers)
        # A call that comes and goes after it: by then the API has seen the connection close.
        assert (await api.predict())[0] == 202
        assert await redis.exists(api.settings.stack.names.store_key("cancelled")) == 0
