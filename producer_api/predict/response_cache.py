"""Answers that are given again, for the models that opted in: the same version, the same rows, within a few seconds.

The cache is a fixed number of places in the store, and a request's place follows from its key: two keys with one
place displace each other, so that no index and no eviction is needed to bound it. The key is a digest of the version
and of the encoded rows. Whatever is in doubt is a miss: traffic that several versions share, a rollout, a store that
is slow or away.
"""

import asyncio
import hashlib
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from inferlane.contracts.lane_tallies import key_bucket
from inferlane.contracts.outcome_token import OutcomeTokens, TokenContents
from inferlane.contracts.results import Result, Status
from inferlane.errors import UNDECODABLE, InferlaneError, InvalidRequestError, UnavailableError
from inferlane.runtime.metrics.api_metrics import CACHE
from inferlane.runtime.redis.connection import get_many, store_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client import Counter
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.split_table import SplitTable
    from models.catalog import Model, ModelVersion
    from models.live_catalog import AnyCatalog
    from producer_api.predict.call import Call

log = structlog.get_logger(__name__)

# Every computed result needs the store too. A look must not take much longer, nor fail because the machine is busy.
_LOOK_WITHIN_S = 0.5
# After an error, so long every call is a miss at once.
_REST_S = 1.0
_WRITES_UNDER_WAY = 200


class CachedResponse(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What is kept: the whole key, because places are shared, and the response of the version (`Result.content`)."""

    key: bytes
    content: bytes
    json_length: int | None
    rows: int
    # Of the predicted class, as in outcome tokens.
    label: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CachedResponse).decode


def _read(raw: bytes) -> CachedResponse | None:
    """Read what is kept; None for what another release, or somebody else, has left in the place."""
    try:
        return _decode(raw)
    except UNDECODABLE:
        return None


_Look = asyncio.Future[bytes | InferlaneError | None]
_RESTING = UnavailableError("the response cache rests after an error")


class CachePlace(NamedTuple):
    """Where the answer to a call is kept, for which version, and for how many seconds."""

    model: str
    version: str
    key: bytes
    store_key: str
    ttl_s: int


@dataclass(frozen=True, slots=True)
class _Counters:
    hit: "Counter"
    miss: "Counter"
    error: "Counter"


class ResponseCache:
    """Finds and keeps answers of the models that `INFERLANE_RESPONSE_CACHE` names. One event loop."""

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        api: "ApiSettings",
        redis_url: str,
        names: "Names",
        redis: "Redis",
        *,
        catalog: "AnyCatalog",
        splits: "SplitTable",
        clock: "Clock",
        tokens: OutcomeTokens | None,
    ) -> None:
        """`tokens` sign the outcome token of each answer, a kept one too: it is of the request, not of the answer."""
        self._tokens = tokens
        self._ttl_s: Mapping[str, int] = api.cached_models
        self._entries = api.response_cache_entries
        self._entry_bytes = api.response_cache_entry_bytes
        self._names = names
        self._redis_url = redis_url
        self._redis = redis
        self._catalog = catalog
        self._splits = splits
        self._clock = clock
        self._rests_until_s = 0.0
        self._asked: list[tuple[str, _Look]] = []
        self._looking: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._counters = {
            model: _Counters(*(CACHE.labels(model, outcome) for outcome in ("hit", "miss", "error")))
            for model in self._ttl_s
        }
        # What a version's keys begin with, by version; another object after each change of the catalogue.
        self._digests: dict[tuple[str, str], tuple[ModelVersion, bytes]] = {}

    async def close(self) -> None:
        """Stop what is being read and written."""
        tasks = [*self._writes, *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def place(self, call: "Call") -> CachePlace | None:
        """Return where the answer to this call may be, or None if it must be computed."""
        ttl_s = self._ttl_s.get(call.model)
        # A callback is sent with a computed result alone.
        if ttl_s is None or call.callback_url is not None:
            return None
        model = self._catalog.model(call.model)
        name = call.version or self._only_version(model)
        if name is None:
            return None
        key = hashlib.sha256(self._digest(model.version(name)) + call.payload).digest()
        place = int.from_bytes(key[:8]) % self._entries
        return CachePlace(call.model, name, key, self._names.store_key("cache", str(place)), ttl_s)

    def _only_version(self, model: "Model") -> str | None:
        """Return the version that all unpinned requests go to; None if there are more, or one is on trial."""
        split = self._splits.get(model.name)
        if split is not None and (split.rollout or split.shadow or split.fallback or split.lane_weights):
            return None
        weights = model.weights(split)
        return next(iter(weights)) if len(weights) == 1 else None

    def _digest(self, version: "ModelVersion") -> bytes:
        name = (version.model, version.version)
        known = self._digests.get(name)
        if known is None or known[0] is not version:
            # The steps around the graph are no part of the digest of its files.
            text = repr((*name, version.digest, version.signature, version.steps))
            known = self._digests[name] = (version, hashlib.sha256(text.encode()).digest())
        return known[1]

    async def find(self, place: CachePlace, call: "Call") -> Result | None:
        """Return the kept answer as the result of this call, or None.

        Looks that begin while one is under way share the next round trip.
        """
        counters = self._counters[place.model]
        raw = await self._look(place.store_key)
        if isinstance(raw, InferlaneError):
            counters.error.inc()
            return None
        kept = None if raw is None else _read(raw)
        if kept is None or kept.key != place.key:
            counters.miss.inc()
            return None
        counters.hit.inc()
        return Result(
            request_id=call.request_id,
            status=Status.SUCCEEDED,
            model=place.model,
            version=place.version,
            accepted_s=call.accepted_s,
            finished_s=self._clock.now_s(),
            rows=kept.rows,
            content=kept.content,
            json_length=kept.json_length,
            caller=call.caller,
            outcome_token="" if self._tokens is None else self._token(self._tokens, place, call, kept.label),
        )

    def _token(self, tokens: OutcomeTokens, place: CachePlace, call: "Call", label: bytes) -> str:
        outcome = TokenContents.of(
            place.model,
            place.version,
            segment=key_bucket(call.routing_key) if call.routing_key else -1,
            request_key=call.request_id,
            at_s=self._clock.now_s(),
            label=label,
        )
        return tokens.sign(outcome)

    def _label(self, token: str) -> bytes:
        """The digest of the predicted class in the token of a computed answer; empty where there is none."""
        if self._tokens is None or not token:
            return b""
        try:
            return self._tokens.read(token, now_s=self._clock.now_s(), max_age_s=math.inf).label
        except InvalidRequestError:  # of a worker with another secret
            return b""

    async def _look(self, store_key: str) -> bytes | InferlaneError | None:
        if self._clock.monotonic_s() < self._rests_until_s:
            return _RESTING
        look: _Look = asyncio.get_running_loop().create_future()
        self._asked.append((store_key, look))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_all())
        return await look

    async def _look_all(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            found: Sequence[bytes | InferlaneError | None] = [_RESTING] * len(asked)
            try:
                async with asyncio.timeout(_LOOK_WITHIN_S), store_errors(self._redis_url):
                    found = await get_many(self._redis, [store_key for store_key, _ in asked])
            except (TimeoutError, UnavailableError) as error:
                self._rest(error)
            finally:
                # Whatever happens here: no call may wait for it for ever.
                for (_, look), raw in zip(asked, found, strict=True):
                    if not look.done():
                        look.set_result(raw)

    def keep(self, place: CachePlace, result: Result) -> None:
        """Keep an answer of the version that the place is for, in the background. What fails is not kept."""
        kept = CachedResponse(
            key=place.key,
            content=result.content,
            json_length=result.json_length,
            rows=result.rows,
            label=self._label(result.outcome_token),
        )
        fits = len(result.content) <= self._entry_bytes
        answered = result.status is Status.SUCCEEDED and result.version == place.version
        if not (answered and fits) or len(self._writes) >= _WRITES_UNDER_WAY:
            return
        write = asyncio.get_running_loop().create_task(self._write(place, _encode(kept)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, place: CachePlace, raw: bytes) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST_S), store_errors(self._redis_url):
                    await self._redis.set(place.store_key, raw, ex=place.ttl_s)
        except InferlaneError as error:
            self._rest(error)

    def _rest(self, error: Exception) -> None:
        self._rests_until_s = self._clock.monotonic_s() + _REST_S
        log.info("response_cache_rests", error=str(error) or "no answer in time", rest_s=_REST_S)
