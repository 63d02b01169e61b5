"""The router that one would write with Faust alone: `python -m benchmarks.systems.faust_agents events|takes`.

An agent on the ingress topic does what the data path does, with the same decision: event by event, or take by take.
Faust's own consumer, producer and commits; the settings that made it fastest here. It refuses nothing and answers
nobody, so it does less.
"""

import asyncio
import sys
from typing import Any

import faust
import uvloop

from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import read_headers
from inferlane.runtime.config import load_settings
from inferlane.runtime.split_table import SplitFollower, SplitTable
from models.store_reader import load_catalog
from router.faust_app.app import faust_record
from router.faust_app.faust_transport import faust_options, transport_class
from router.routing import route

NAMES = Names()

_LANE = Lane.REQUESTS
# As many as the data path takes at once.
_TAKE = 2_000
_TAKE_WITHIN_S = 0.005
# A producer that sends each record by itself is slower by half.
_LINGER_S = 0.005


async def run(way: str) -> None:
    """Forward until ended."""
    settings = load_settings()
    catalog = load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model)
    splits = SplitTable()
    follower = SplitFollower(settings.kafka, settings.stack.names, splits)
    await follower.start()
    app = faust.App(
        **faust_options(settings.kafka, settings.stack.names) | {"id": "benchmark.router"},
        producer_linger=_LINGER_S,
        producer_acks=-1,
    )
    transport = transport_class(
        settings.kafka, topic=NAMES.ingress[_LANE], fetch_max_wait_ms=settings.kafka.fetch_max_wait_ms
    )
    app.transport = transport(app.conf.broker_consumer, app)
    raw: dict[str, Any] = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}
    topics = {
        (version.model, version.version): app.topic(NAMES.work_topic(version.model, version.version, _LANE), **raw)
        for version in catalog.all_versions()
    }

    async def forward(event: Any) -> None:
        record = faust_record(event.message)
        headers = read_headers(record)
        chosen = route(headers, splits, catalog)
        routed = [*record.headers, ("ce_modelversion", chosen.version.encode())]
        await topics[chosen.model, chosen.version].send(key=record.key, value=record.value, headers=routed)

    async def by_events(stream: Any) -> None:
        async for event in stream.events():
            await forward(event)

    async def by_takes(stream: Any) -> None:
        async for events in stream.take_events(_TAKE, within=_TAKE_WITHIN_S):
            for event in events:
                await forward(event)

    app.agent(app.topic(NAMES.ingress[_LANE], **raw), name="router")({"events": by_events, "takes": by_takes}[way])
    await app.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))
