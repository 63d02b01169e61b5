"""`Idempotency-Key`: one key stands for one request, however often and to whichever replica it is sent.

Source: The Idempotency-Key HTTP Header Field, draft-ietf-httpapi-idempotency-key-header-07. Where the draft lets a
server refuse a concurrent duplicate with 409, here the duplicate waits for the result of the first call.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import msgspec
import structlog
from msgspec.structs import replace

from inferlane.errors import UNDECODABLE, InferlaneError, OverloadedError, UnavailableError, clipped
from inferlane.runtime.redis.connection import store_errors
from producer_api.http.error_responses import InvalidParameterError, KeyReusedError
from producer_api.predict.pending import answer_within, store_is_late

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from inferlane.contracts.naming import Names
    from inferlane.contracts.results import Result
    from inferlane.runtime.redis.result_store import ResultStore
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import StoreSettings
    from producer_api.predict.call import Call
    from producer_api.predict.submitter import Submitter
    from producer_api.predict.telemetry import ResponseMetrics

log = structlog.get_logger(__name__)

_MAX_KEY_BYTES = 255
_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A key as it was sent. Keys are separate for each caller, so nobody can guess the requests of another."""

    caller: str
    key: bytes


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The request that a key stands for. Unless `is_enqueued`, it is not known whether the broker has the request."""

    request_id: str
    fingerprint: str
    is_enqueued: bool
    # The proof that the id is bound to, so that two replicas that enqueue for one key use one id.
    proof: bytes = b""


class ClaimStore:
    """The claims in the store, which all replicas share."""

    def __init__(self, redis: "Redis", *, redis_url: str, names: "Names") -> None:
        self._redis = redis
        self._names = names
        self._redis_url = redis_url

    async def claim(self, key: str, wanted: Claim, *, ttl_s: float) -> Claim:
        """Claim the key; return the claim that holds, which is the first one that was made.

        Raises:
            UnavailableError: the store does not answer.
            InferlaneError: the stored claim is damaged.
        """
        async with store_errors(self._redis_url):
            held = await self._redis.set(
                self._names.store_key("idempotency", key), _encode(wanted), nx=True, get=True, ex=_whole(ttl_s)
            )
        # redis-py's type covers every option; with `get` it is the earlier value or None.
        return wanted if held is None else _decode(cast("bytes", held))

    async def put(self, key: str, claim: Claim, *, ttl_s: float) -> None:
        """Replace the claim of the key.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.set(self._names.store_key("idempotency", key), _encode(claim), ex=_whole(ttl_s))


@dataclass(slots=True)
class _Turns:
    """The calls of one key in this process, which enqueue one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Those that hold the lock or wait for it: a lock that was released is not locked while the next one wakes.
    users: int = 0


class IdempotentSubmitter:
    """Enqueues one request per idempotency key. One event loop."""

    def __init__(
        self,
        api: "ApiSettings",
        store_settings: "StoreSettings",
        *,
        claims: ClaimStore,
        submitter: "Submitter",
        store: "ResultStore",
        metrics: "ResponseMetrics",
    ) -> None:
        self._result_ttl_s = store_settings.result_ttl_s
        self._claims = claims
        self._submitter = submitter
        self._store = store
        self._metrics = metrics
        self._submitting: dict[str, _Turns] = {}
        # Calls that look up their key or wait for a duplicate are not pending requests yet, so they have a limit too.
        self._calls, self._max_calls = 0, api.max_waiting_requests

    async def submit(
        self, claimed: "IdempotencyKey", body: bytes, call: "Call", *, waits_for_result: bool
    ) -> "tuple[Call, Result | None]":
        """Enqueue the call unless its key was used before; return it with its final id, and its result if there is one.

        If `waits_for_result`, wait for the result.

        Raises:
            InvalidParameterError: the key is not valid.
            KeyReusedError: the key stands for another body.
            OverloadedError: too many are waiting, or the deadline cannot be met.
            UnavailableError: the store or the broker does not answer; the same call may be sent again.
        """
        key = _digest(claimed.caller.encode() + b"\0" + read_key(claimed.key))
        if self._calls >= self._max_calls:
            raise OverloadedError(
                f"{self._calls} calls with an Idempotency-Key are being enqueued in this process, the limit is "
                f"{self._max_calls}; send the call again with the same key"
            )
        turns = self._submitting.setdefault(key, _Turns())
        turns.users += 1
        self._calls += 1
        try:
            # Duplicates in this process wait until the first is enqueued. Two replicas may both enqueue, under one id;
            # the first terminal result then counts for both.
            busy = UnavailableError(
                "another call with this Idempotency-Key is still being enqueued; send the call again with the same key"
            )
            async with answer_within(self._submitter.left_s(call), busy):
                await turns.lock.acquire()
            try:
                call = await self._submit_once(key, fingerprint(body), call)
            finally:
                turns.lock.release()
        finally:
            self._calls -= 1
            turns.users -= 1
            if turns.users == 0:
                del self._submitting[key]
        return call, await self._submitter.join(call, waits_for_result=waits_for_result)

    async def _submit_once(self, key: str, printed: str, call: "Call") -> "Call":
        ttl_s = call.deadline_s - call.accepted_s + self._result_ttl_s
        wanted = Claim(call.request_id, printed, is_enqueued=False, proof=call.proof)
        async with self._in_time(call):
            held = await self._claims.claim(key, wanted, ttl_s=ttl_s)
        if held.fingerprint != printed:
            raise KeyReusedError(
                f"the Idempotency-Key stands for a request whose body has the fingerprint {held.fingerprint}, this one "
                f"has {printed}; send the same bytes again, or use a new key for a new request"
            )
        async with self._in_time(call):
            is_replay = held.is_enqueued and not await self._is_forgotten(held.request_id)
        self._metrics.count_keyed_call(is_replay=is_replay)
        if is_replay:
            return replace(call, request_id=held.request_id)
        if not held.is_enqueued:
            call = call.bound_to(held.proof)
        await self._submitter.submit(call)
        enqueued = Claim(call.request_id, printed, is_enqueued=True, proof=call.proof)
        try:
            async with self._in_time(call):
                await self._claims.put(key, enqueued, ttl_s=ttl_s)
        except UnavailableError as error:
            # The request is accepted; the next call with the key enqueues it again, under the same id.
            log.warning("claim_not_completed", request_id=call.request_id, error=str(error))
        return call

    def _in_time(self, call: "Call") -> AbstractAsyncContextManager[None]:
        time_s = self._submitter.left_s(call)
        return answer_within(time_s, store_is_late(time_s, done="send the call again with the same Idempotency-Key"))

    async def _is_forgotten(self, request_id: str) -> bool:
        """Whether the request's result has expired from the store, so that a call that joined would wait in vain."""
        if await self._store.accepted(request_id) is not None:
            return False
        # The acceptance mark is removed when the result is stored, so the result is read after it.
        (result,) = await self._store.get([request_id])
        return result is None


def read_key(raw: bytes) -> bytes:
    """Check the header's value and return it.

    Raises:
        InvalidParameterError: it is empty, too long or not printable ASCII.
    """
    if not 0 < len(raw) <= _MAX_KEY_BYTES or any(not _FIRST_PRINTABLE <= byte <= _LAST_PRINTABLE for byte in raw):
        raise InvalidParameterError(
            f"the Idempotency-Key has {len(raw)} bytes; it must be 1 to {_MAX_KEY_BYTES} printable ASCII characters, "
            "such as a UUID"
        )
    return raw


def fingerprint(body: bytes) -> str:
    """Return a digest that tells one body from another."""
    return _digest(body)


def _digest(raw: bytes) -> str:
    return blake2b(raw, digest_size=16).hexdigest()


def _whole(seconds: float) -> int:
    return max(1, int(seconds))


_encode = msgspec.msgpack.Encoder().encode


def _decode(raw: bytes) -> Claim:
    try:
        return msgspec.msgpack.decode(raw, type=Claim)
    except UNDECODABLE as error:
        # Not a `DecodeError`: the client's request is well.
        raise InferlaneError(
            f"the stored claim of the Idempotency-Key is damaged: {clipped(str(error))}. Send the request with a new "
            "key; if this repeats, look for what else writes to the store"
        ) from error
