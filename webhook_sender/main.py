"""The webhooks process: opens its clients and reads every topic of callbacks."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.naming import CALLBACK_STAGES
from inferlane.errors import ConfigurationError
from inferlane.runtime.kafka.broker_connection import PULSE
from inferlane.runtime.kafka.lag import ConsumerHealth, ConsumerState
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.ops import OpsApp, serve_ops
from inferlane.runtime.retry import Retrier, SystemClock
from inferlane.runtime.service import Startup, essential
from webhook_sender.callback_lane import CallbackLane
from webhook_sender.dispatcher import Dispatcher, longest_wait_s
from webhook_sender.http_sender import HttpSender
from webhook_sender.receivers import Receivers
from webhook_sender.signing import Signer, parse_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.runtime.config import Settings

log = structlog.get_logger(__name__)


async def serve(settings: "Settings", stop: asyncio.Event) -> None:
    """Send callbacks until `stop` is set and the calls under way have ended.

    Raises:
        ConfigurationError: callbacks are off, the secret is not one, or the ops port is taken.
        StoppedEarlyError: `stop` was set before the broker was available.
    """
    if not settings.webhooks.enabled:
        raise ConfigurationError(
            "callbacks are off: INFERLANE_WEBHOOKS=on for this process, the API, the router and the creation of topics "
            "turns them on"
        )
    secret = settings.webhooks.secret
    signer = Signer(parse_secrets("" if secret is None else secret.get_secret_value()))
    startup = Startup(stop)
    async with AsyncExitStack() as stack:
        ops = OpsApp(live=startup.live, ready=startup.ready)
        port = await stack.enter_async_context(
            serve_ops(ops, settings.ports, max_body_bytes=settings.kafka.max_body_bytes)
        )
        producer = BatchProducer(settings.kafka)
        await startup.wait_for("broker", producer.start)
        stack.push_async_callback(producer.close)
        http = await stack.enter_async_context(
            HttpSender(networks=settings.webhooks.networks, timeout_s=settings.webhooks.timeout_s)
        )
        lanes = _lanes(settings, http=http, signer=signer, producer=producer)
        ops.show(
            live=lambda: _live(lanes),
            ready=lambda: {**_ready(lanes), "broker": PULSE.answers},
            consumers=lambda: _health(lanes),
        )
        running = essential(asyncio.create_task(_run(lanes, stop), name="callbacks"), may_end=stop.is_set)
        log.info("webhooks_started", ops_port=port)
        try:
            await asyncio.wait({running, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.wait({running}, timeout=settings.kafka.drain_deadline_s)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        log.info("webhooks_stopped")


def _lanes(
    settings: "Settings", *, http: HttpSender, signer: Signer, producer: BatchProducer
) -> "Mapping[str, CallbackLane]":
    clock, retrier, names = SystemClock(), Retrier(), settings.stack.names
    dispatcher = Dispatcher(
        settings.kafka,
        settings.stack.names,
        settings.webhooks,
        http=http,
        signer=signer,
        receivers=Receivers(calls_per_host=settings.webhooks.calls_per_host, clock=clock),
        producer=producer,
        retrier=retrier,
        clock=clock,
    )
    topics = {"callbacks": names.callbacks} | {
        f"retry_{stage}": names.callback_retries(stage) for stage in range(1, CALLBACK_STAGES + 1)
    }
    return {
        name: CallbackLane(
            settings.kafka,
            settings.stack.names,
            topic=topic,
            longest_wait_s=longest_wait_s(stage, settings.webhooks.first_retry_s),
            work=dispatcher.dispatch,
            retrier=retrier,
            clock=clock,
        )
        for stage, (name, topic) in enumerate(topics.items())
    }


async def _run(lanes: "Mapping[str, CallbackLane]", stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as running:
        for name, lane in lanes.items():
            running.create_task(lane.run(stop), name=f"lane:{name}")


def _health(lanes: "Mapping[str, CallbackLane]") -> "Mapping[str, ConsumerHealth]":
    return {name: lane.health() for name, lane in lanes.items()}


def _live(lanes: "Mapping[str, CallbackLane]") -> "Mapping[str, bool]":
    return {f"{name}_progress": lane.health().state is not ConsumerState.STUCK for name, lane in lanes.items()}


def _ready(lanes: "Mapping[str, CallbackLane]") -> "Mapping[str, bool]":
    return {f"{name}_lane": lane.consumer.has_joined for name, lane in lanes.items()}
