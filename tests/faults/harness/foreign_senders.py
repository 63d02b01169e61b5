"""Senders that are not ours: compressed records, records over a limit, records that kill, clients that vanish.

What they send is in the ledger like everything else: it ends in one terminal result, and nobody else notices.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Producer

from inferlane.contracts.kafka_record import format_time
from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.clients import record_limit_bytes
from tests.faults.harness.ledger import Entry
from tests.faults.harness.questions import IDLE_VERSION, KILLER_VALUE, MODEL, VERSIONS, Fate, Way

if TYPE_CHECKING:
    from tests.faults.harness.loading import Load
    from tests.faults.harness.system import System

CODECS = ("gzip", "snappy", "lz4", "zstd")
_SOURCE = "faults/foreign"
_LANES = {Way.REQUESTS: Lane.REQUESTS, Way.BULK: Lane.BULK}
# Enough that the client library finds a batch of them smaller when compressed.
_COMPRESSED_RECORDS = 40
_ACKNOWLEDGED_WITHIN_S = 60.0
# Headers and key of a record, as the broker counts them; what the router adds must not fit any more.
_OVERSIZED_ROOM_BYTES = 400
_LONG_DEADLINE_S = 900.0
# Long enough to be written to the topic before it goes.
_IDLE_DEADLINE_S = 5.0
_CROWD = 50
_CROWD_STAYS_S = 0.2


@dataclass(frozen=True, slots=True)
class _Sent:
    entry: Entry
    lane: Lane
    value: bytes


class ForeignSenders:
    """Each method sends at once and returns when the broker has it. One event loop."""

    def __init__(self, system: "System", load: "Load", draw: random.Random) -> None:
        self._system = system
        self._load = load
        self._draw = draw

    async def send_compressed(self) -> str:
        """Send right requests of both lanes, compressed by a codec that another client library chose."""
        codec = self._draw.choice(CODECS)
        sent = [self._request(self._draw.choice(list(_LANES))) for _ in range(_COMPRESSED_RECORDS)]
        await self._send(sent, {"compression.type": codec, "linger.ms": 100})
        return codec

    async def send_oversized(self) -> str:
        """Send one record that fits the request topic, and no work topic once it has the router's headers."""
        sent = self._request(Way.REQUESTS, fate=Fate.REFUSED)
        limit_bytes = record_limit_bytes(self._system.settings.kafka)
        padding = limit_bytes - _OVERSIZED_ROOM_BYTES - len(sent.value)
        padded = replace(sent, value=sent.value + b" " * padding)
        await self._send([padded], {"message.max.bytes": limit_bytes * 2})
        return f"{len(padded.value):,} bytes"

    async def send_killer(self) -> str:
        """Send a request at which its worker dies, between right ones for the same version."""
        version = self._draw.choice(VERSIONS)
        way = self._draw.choice(list(_LANES))
        neighbours = [self._request(way, version=version) for _ in range(4)]
        killer = self._request(way, fate=Fate.REFUSED, version=version, rows=((KILLER_VALUE,) * 4,))
        await self._send([*neighbours[:2], killer, *neighbours[2:]], {})
        return f"{version}, {way}"

    async def send_to_idle_version(self) -> None:
        """Ask over HTTP for a version that nobody serves: it expires, or is told that its topic is gone."""
        question = self._load.oracle.ask(self._draw)
        question = replace(question, version=IDLE_VERSION, deadline_s=_IDLE_DEADLINE_S, fate=Fate.EITHER)
        # An API that lets nobody in has accepted nothing.
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_DEADLINE_S):
                await self._load.http.ask(Way.HTTP_ASYNC, question)

    async def vanish(self) -> str:
        """Open connections, ask, and go before the answer comes."""
        url = self._system.api_url(self._draw)
        host, _, port = url.removeprefix("http://").partition(":")
        body = msgspec.json.encode({"model": MODEL, "instances": [[5.1, 3.5, 1.4, 0.2]], "timeout_s": 30})
        head = (
            f"POST /v1/models/predict HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )

        async def come_and_go() -> bool:
            try:
                async with asyncio.timeout(_CROWD_STAYS_S * 10):
                    _, writer = await asyncio.open_connection(host, int(port))
            except (OSError, TimeoutError):
                return False
            writer.write(head.encode() + body)
            await asyncio.sleep(self._draw.uniform(0, _CROWD_STAYS_S))
            writer.transport.abort()
            return True

        came = sum(await asyncio.gather(*(come_and_go() for _ in range(_CROWD))))
        return f"{came} clients"

    def _request(self, way: Way, *, fate: Fate = Fate.SERVED, **asked: Any) -> _Sent:
        """A request that is expected from now on; `asked` overrides what the question would be."""
        # Who must be told why must not expire before.
        chosen = asked if fate is Fate.SERVED else {"deadline_s": _LONG_DEADLINE_S} | asked
        question = replace(self._load.oracle.ask(self._draw), fate=fate, **chosen)
        due_s = time.time() + question.deadline_s
        entry = Entry(request_id=uuid.uuid4().hex, way=way, question=question, due_from_s=due_s, due_by_s=due_s)
        entry.source = _SOURCE
        self._load.ledger.expect(entry)
        return _Sent(entry, _LANES[way], msgspec.json.encode({"instances": question.rows}))

    async def _send(self, sent: Sequence[_Sent], options: dict[str, object]) -> None:
        await asyncio.to_thread(self._produce, sent, options)
        for one in sent:
            self._load.ledger.accept(one.entry.request_id, at_s=time.time())
            if one.entry.way is Way.REQUESTS:
                self._load.http.follow(one.entry.request_id)

    def _produce(self, sent: Sequence[_Sent], options: dict[str, object]) -> None:
        """Send in order with librdkafka; acknowledged by all replicas when it returns.

        Raises:
            TimeoutError: the broker did not acknowledge in time.
        """
        producer = Producer(
            {
                "bootstrap.servers": self._system.settings.kafka.bootstrap_servers,
                "acks": "all",
                "message.timeout.ms": int(_ACKNOWLEDGED_WITHIN_S * 1000),
                **options,
            }
        )
        errors: list[object] = []
        for one in sent:
            question = one.entry.question
            headers = [
                ("ce_id", one.entry.request_id.encode()),
                ("ce_source", _SOURCE.encode()),
                ("ce_model", MODEL.encode()),
                ("ce_deadline", format_time(one.entry.due_by_s)),
            ]
            if question.version is not None:
                headers.append(("ce_modelversion", question.version.encode()))
            # One key: they lie in one partition, in this order, beside each other.
            producer.produce(
                self._system.settings.stack.names.ingress[one.lane],
                one.value,
                key=b"foreign",
                headers=headers,
                on_delivery=lambda error, _: errors.append(error) if error else None,
            )
        left = producer.flush(_ACKNOWLEDGED_WITHIN_S)
        if left or errors:
            raise TimeoutError(f"the broker did not acknowledge foreign records: {left} left, {errors[:3]}")
