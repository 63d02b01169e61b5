"""Results in the store: the first terminal write wins; a wake-up is a hint, the stored key is authoritative."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from redis.asyncio import Redis

from inferlane.contracts.identity import FOREIGN, name_of
from inferlane.contracts.naming import Names
from inferlane.contracts.results import (
    CANCELLED,
    Accepted,
    Result,
    Status,
    decode_accepted,
    encode_accepted,
    encode_result,
    wake_ups,
)
from inferlane.errors import UnavailableError, quoted
from inferlane.runtime.redis.connection import get_many, is_cluster, store_errors
from inferlane.runtime.redis.damaged_results import despite_wrong_types, put_despite_damage, readable
from inferlane.runtime.redis.result_scripts import MARK, PUT, REOPEN, SHORTEN

# Under a name when two payloads had it.
_AMBIGUOUS = b""
# A lost race means that a result came; only another replay of the same request makes room for a second one.
_REOPEN_TRIES = 5
_NOBODY: Mapping[str, Sequence[Result]] = MappingProxyType({})


class ResultStore:
    """The keyed results. Safe for any number of tasks of one event loop."""

    def __init__(self, redis: Redis, *, redis_url: str, result_ttl_s: float, names: Names) -> None:
        self._redis = redis
        self._redis_url = redis_url
        self._ttl_s = int(result_ttl_s)
        self._put = redis.register_script(PUT)
        self._shorten = redis.register_script(SHORTEN)
        self._mark = redis.register_script(MARK)
        self._reopen = redis.register_script(REOPEN)
        self._names = names
        self._is_cluster = is_cluster(redis)
        # The key of the result of a foreign id; empty once two payloads had the same name.
        self._name_key = names.store_key("name", "")
        self._result_prefix = names.store_key("result", "")
        self._accepted_prefix = names.store_key("accepted", "")

    def wake_up_channel(self, instance: str) -> str:
        """Return the pub/sub channel of one API instance."""
        return self._names.store_key("wake", instance)

    async def put(self, results: Sequence[Result], *, wake: Mapping[str, Sequence[Result]] = _NOBODY) -> list[Result]:
        """Store each result unless its request has a readable one already; return those in force, in the same order.

        The given object itself is returned where it was the first. If all were, the API instances in `wake` are
        notified; otherwise the caller must do that. One round trip, all or nothing: separate commands on a full
        store would lose the mark of acceptance without storing the result. Source of `SET … NX GET`: Valkey and
        Redis from 7.0.

        Raises:
            UnavailableError: the results may not have been stored; storing them again is harmless.
        """
        if not results:
            return []
        messages = [(self.wake_up_channel(instance), text) for instance in wake for text in wake_ups(wake[instance])]
        put = partial(self._put_over_slots if self._is_cluster else self._put_at_once, results, messages)
        async with store_errors(self._redis_url):
            held = await put_despite_damage(self._redis, lambda: [self._result_key(one.key) for one in results], put)
        await self._name([result.foreign_key for result in results if result.foreign_key])
        return [ours if earlier is None else earlier for ours, earlier in zip(results, held, strict=True)]

    async def _put_at_once(
        self, results: Sequence[Result], messages: Sequence[tuple[str, bytes]]
    ) -> list[bytes | None]:
        # Not on a cluster, so without a hash tag.
        ids = [result.foreign_key or result.request_id for result in results]
        keys = [self._result_prefix + key for key in ids] + [self._accepted_prefix + key for key in ids]
        arguments: list[int | str | bytes] = [self._ttl_s, *map(encode_result, results)]
        for message in messages:
            arguments += message
        return list(await self._put(keys=keys, args=arguments))

    async def _put_over_slots(
        self, results: Sequence[Result], messages: Sequence[tuple[str, bytes]]
    ) -> list[bytes | None]:
        """Do what the script does, step by step over all nodes: a script may use keys of one slot only."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for result in results:
                pipeline.set(self._result_key(result.key), encode_result(result), nx=True, get=True, ex=self._ttl_s)
            earlier = await pipeline.execute()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for result in results:
                pipeline.delete(self._accepted_key(result.key))
            await pipeline.execute()
        if not any(earlier):
            for channel, message in messages:
                await self._redis.publish(channel, message)
        return earlier

    def _result_key(self, key: str) -> str:
        return self._result_prefix + self._tagged(key)

    def _accepted_key(self, key: str) -> str:
        return self._accepted_prefix + self._tagged(key)

    def _tagged(self, key: str) -> str:
        """Return the key; on a cluster with a hash tag in braces, so that a result and its mark lie in one slot.

        The tag is never empty, whatever the key begins with. Elsewhere keys stay as they always were.
        """
        return f"{{id={key}}}" if self._is_cluster else key

    async def wake(self, instance: str, results: Sequence[Result]) -> None:
        """Notify one API instance of these results. A lost message does no harm: the stored key is authoritative.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            for message in wake_ups(results):
                await self._redis.publish(self.wake_up_channel(instance), message)

    async def foreign_key(self, name: str) -> str | None:
        """Return the key of the only request with this name (`contracts.identity`); None without one, or with several.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            raw = await self._redis.get(self._name_key + name)
        return _raw(raw).decode() or None if raw is not None else None

    async def _name(self, foreign_keys: Sequence[str]) -> None:
        """Store the names of these keys, before the offsets are committed, so that a crash in between loses none."""
        if not foreign_keys:
            return
        names = [self._name_key + name_of(key) for key in foreign_keys]

        async def put() -> list[bytes | None]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name, key in zip(names, foreign_keys, strict=True):
                    pipeline.set(name, key, nx=True, get=True, ex=self._ttl_s)
                return list(await pipeline.execute())

        async with store_errors(self._redis_url):
            held = await despite_wrong_types(self._redis, lambda: names, put)
            for name, key, earlier in zip(names, foreign_keys, held, strict=True):
                if earlier is not None and _raw(earlier) != key.encode():
                    # The name does not tell which of the two is meant, and a wrong result is worse than none.
                    await self._redis.set(name, _AMBIGUOUS, ex=self._ttl_s)

    async def get(self, request_ids: Sequence[str]) -> list[Result | None]:
        """Return the results of these requests, None for each that has none (yet).

        Raises:
            UnavailableError: the store does not answer.
        """
        if not request_ids:
            return []
        async with store_errors(self._redis_url):
            found = await get_many(self._redis, keys := [self._result_key(request_id) for request_id in request_ids])
        return [None if raw is None else readable(_raw(raw), key) for key, raw in zip(keys, found, strict=True)]

    async def shorten(self, keys: Sequence[str], *, ttl_s: float) -> None:
        """Shorten the life of the results under these keys to `ttl_s` seconds from now.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            ours = [self._result_key(key) for key in keys]
            if not self._is_cluster:
                await self._shorten(keys=ours, args=[max(1, int(ttl_s))])
                return
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in ours:
                    pipeline.expire(key, max(1, int(ttl_s)), lt=True)
                await pipeline.execute()

    async def find(self, request_id: str) -> Result | Accepted | None:
        """Return the result, else the mark of acceptance, else None; read at one moment.

        `put` removes the mark as it stores the result: two separate reads could find
        neither.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            key = self._result_key(request_id)
            raw, accepted = await self._redis.mget(key, self._accepted_key(request_id))
        if raw is not None and (result := readable(_raw(raw), key)) is not None:
            return result
        return None if accepted is None else decode_accepted(_raw(accepted))

    async def mark_accepted(self, request_id: str, accepted: Accepted, *, ttl_s: float) -> None:
        """Remember that a request was accepted, so that any replica can tell it from one never seen.

        A request that has its result gets no mark: nobody would delete it.

        Raises:
            UnavailableError: the store does not answer.
        """
        keys = [self._result_key(request_id), self._accepted_key(request_id)]
        async with store_errors(self._redis_url):
            await self._mark(keys=keys, args=[encode_accepted(accepted), max(1, int(ttl_s))])

    async def reopen(self, request_id: str, accepted: Accepted, *, ttl_s: float) -> Result | None:
        """Remove a failed or expired result and mark the request accepted, atomically: only a replay may do this.

        Returns None if the request is open now, else the result that it keeps: an answer, or `FAILED` because its
        client cancelled it.

        Raises:
            UnavailableError: the store does not answer, or others write results of this request again and again.
        """
        key = self._result_key(request_id)
        # A result may come between the two calls. The next try sees it.
        for _ in range(_REOPEN_TRIES):
            async with store_errors(self._redis_url):
                raw = await self._redis.get(key)
                held = None if raw is None else readable(_raw(raw), key)
                if held is not None and (held.status is Status.SUCCEEDED or held.error_code == CANCELLED):
                    return held
                is_open = await self._reopen(
                    keys=[key, self._accepted_key(request_id)],
                    args=[b"" if raw is None else raw, encode_accepted(accepted), max(1, int(ttl_s))],
                )
            if is_open:
                await self._name([request_id] if request_id.startswith(FOREIGN) else [])
                return None
        raise UnavailableError(f"results of {quoted(request_id)} come and go: others replay it too; try again later")

    async def forget(self, request_id: str) -> None:
        """Remove everything that is stored of a request.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            await self._redis.delete(self._result_key(request_id), self._accepted_key(request_id))

    async def accepted(self, request_id: str) -> Accepted | None:
        """Return what `mark_accepted` stored, or None.

        Raises:
            UnavailableError: the store does not answer.
        """
        async with store_errors(self._redis_url):
            raw = await self._redis.get(self._accepted_key(request_id))
        return None if raw is None else decode_accepted(_raw(raw))


def _raw(value: bytes | str) -> bytes:
    """redis-py's type says both; without `decode_responses` it is bytes."""
    return value if isinstance(value, bytes) else value.encode()
