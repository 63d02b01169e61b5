"""The reader of Prometheus, on a real HTTP server that says what a Prometheus, or something else, may say."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from inferlane.contracts.rollout import Check, CheckOptions, RolloutSpec, RolloutState, Step
from inferlane.errors import UnavailableError
from inferlane.runtime.config import load_settings
from inferlane.runtime.metrics.router_metrics import ROLLOUT_UNREAD
from router.rollouts.outside_checks import MetricReading
from router.rollouts.outside_reader import OutsideReader, PrometheusReader
from tests.support.fakes.clock import FakeClock

if TYPE_CHECKING:
    from inferlane.runtime.redis.feedback_store import FeedbackStore

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


METRIC = CheckOptions(query="up", max=1)


def rollout_with(checks: dict[Check, CheckOptions]) -> RolloutState:
    spec = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.5),), checks=checks)
    return RolloutState(id="r", spec=spec)


def vector(*values: str) -> dict[str, object]:
    result = [{"metric": {}, "value": [1.0, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def read(handler: Handler, *, token: str | None = None) -> MetricReading:
    app = web.Application()
    app.router.add_post("/under/api/v1/query", handler)
    async with TestServer(app) as server:
        settings = load_settings(prometheus_url=str(server.make_url("/under/")), prometheus_token=token)
        return await PrometheusReader(settings.rollouts).read("my_query")


async def test_the_value_of_the_one_series_is_read_with_the_query_and_the_token() -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((dict(await request.post()), request.headers.get("authorization")))
        return web.json_response(vector("0.25"))

    assert await read(answer, token="t0ken") == MetricReading(value=0.25)  # noqa: S106 - of this test
    assert seen == [({"query": "my_query"}, "Bearer t0ken")]


@pytest.mark.parametrize("padding", [0, 2 * 1024 * 1024], ids=["in two parts", "too large"])
async def test_an_answer_is_read_whole_or_refused_by_its_size(padding: int) -> None:
    """Guards `read_up_to`: what had come of an answer was taken for the whole, and its rest for no Prometheus."""
    text = json.dumps(vector("0.25")).encode() + b" " * padding

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(text[:20])
        # The client reads what there is before the rest is sent.
        await asyncio.sleep(0.05)
        with suppress(ConnectionError):
            await response.write(text[20:])
        return response

    found = await read(answer)
    assert found.value == (None if padding else 0.25)
    assert ("1 MiB" in found.missing) is bool(padding)


async def test_a_scalar_is_a_value_too() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "7"]}})

    assert await read(answer) == MetricReading(value=7.0)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, vector(), "no series"),
        (200, vector("1", "2"), "2 series"),
        (200, vector("NaN"), "is nan"),
        (200, vector("+Inf"), "is inf"),
        (400, {"status": "error", "error": "parse error at char 3"}, "parse error at char 3"),
        (200, {"hello": "world"}, "no Prometheus"),
        (502, "bad gateway", "no Prometheus: status 502"),
    ],
)
async def test_what_is_no_value_is_no_data_with_the_reason(status: int, body: object, says: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    reading = await read(answer)
    assert reading.value is None
    assert says in reading.missing


async def test_a_redirect_is_not_followed() -> None:
    followed = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request.path)
        return web.json_response(vector("1"))

    app = web.Application()
    app.router.add_route("*", "/secret", elsewhere)
    async with TestServer(app) as other:

        async def answer(_: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(str(other.make_url("/secret")))

        reading = await read(answer)
    assert reading.value is None
    assert followed == []


async def test_a_server_that_is_away_or_not_configured_is_no_data() -> None:
    async with TestServer(web.Application()) as server:
        url = str(server.make_url("/"))
    away = await PrometheusReader(load_settings(prometheus_url=url).rollouts).read("up")
    assert away.value is None
    assert "cannot be asked" in away.missing
    unset = await PrometheusReader(load_settings().rollouts).read("up")
    assert "INFERLANE_PROMETHEUS_URL" in unset.missing


async def test_a_reading_that_is_old_is_no_data() -> None:
    answers = [web.json_response(vector("1"))]

    async def answer(_: web.Request) -> web.StreamResponse:
        return answers.pop()

    app = web.Application()
    app.router.add_post("/api/v1/query", answer)
    clock, state = FakeClock(), rollout_with({Check.PROMETHEUS: METRIC, Check.ERRORS: CheckOptions()})
    async with TestServer(app) as server:
        settings = load_settings(prometheus_url=str(server.make_url("/")))
        reader = OutsideReader(settings.rollouts, feedback=cast("FeedbackStore", None), clock=clock)
        await reader.refresh(state)
        assert reader.of(state) == {Check.PROMETHEUS: MetricReading(value=1.0)}
        await reader.close()
        clock.advance(61)
        found = reader.of(state)[Check.PROMETHEUS]
        await reader.close()
    assert isinstance(found, MetricReading)
    assert (found.value, "61 s ago" in found.missing) == (None, True)


@pytest.mark.parametrize(("body", "unread"), [(vector("1"), 0), (vector(), 1), (vector("NaN"), 1)])
async def test_a_source_without_a_value_is_counted(body: object, unread: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    counted = ROLLOUT_UNREAD.labels(Check.PROMETHEUS)
    before = counted._value.get()
    app = web.Application()
    app.router.add_post("/api/v1/query", answer)
    async with TestServer(app) as server:
        settings = load_settings(prometheus_url=str(server.make_url("/")))
        reader = OutsideReader(settings.rollouts, feedback=cast("FeedbackStore", None), clock=FakeClock())
        await reader.refresh(rollout_with({Check.PROMETHEUS: METRIC}))
    assert counted._value.get() - before == unread


async def test_a_store_that_does_not_answer_is_counted_and_feedback_that_is_not_there_is_not() -> None:
    class Store:
        async def by_day(self, *_: object) -> dict[int, object]:
            if self.is_away:
                raise UnavailableError("the store does not answer")
            return {}

        is_away = False

    store, counted = Store(), ROLLOUT_UNREAD.labels(Check.QUALITY)
    reader = OutsideReader(load_settings().rollouts, feedback=cast("FeedbackStore", store), clock=FakeClock())
    state = rollout_with({Check.QUALITY: CheckOptions()})
    before = counted._value.get()
    await reader.refresh(state)
    assert counted._value.get() == before
    store.is_away = True
    await reader.refresh(state)
    assert counted._value.get() == before + 1
