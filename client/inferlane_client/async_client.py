"""The client of programs on asyncio."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, Self

from inferlane_client.answers import Answer, Prediction, ServedModel, TrafficSplit
from inferlane_client.binary_tensors import TensorPrediction
from inferlane_client.call_errors import CallError
from inferlane_client.callers import AsyncCaller
from inferlane_client.handles import AsyncHandle
from inferlane_client.request import Request, Rows, check_concurrency, request_of
from inferlane_client.retries import Retries
from inferlane_client.rollout_calls import AsyncRollouts
from inferlane_client.server_connection import DEFAULT_CONNECTIONS, DEFAULT_URL, Connection, Tls


class AsyncClient:
    """Calls one Inferlane server, as `Client` does. Of one event loop; close it, or use it as a context manager.

    Cancelling a call leaves a request that was accepted to go on.
    """

    def __init__(  # noqa: PLR0913 - as `Client`
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries = Retries(),  # noqa: B008 - it is frozen
        tls: Tls = Tls(),  # noqa: B008 - as above
        connections: int = DEFAULT_CONNECTIONS,
        trust_env: bool = True,
    ) -> None:
        """The arguments, and what they raise, are those of `Client`."""
        connection = Connection(url, api_key=api_key, tls=tls, connections=connections, trust_env=trust_env)
        self._caller = AsyncCaller(connection, retries, timeout_s)
        self._exchanges = self._caller.exchanges
        self.rollouts = AsyncRollouts(self._caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()

    async def predict(  # noqa: PLR0913 - as `Client.predict`
        self,
        rows: Rows,
        *,
        model: str | None = None,
        version: str | None = None,
        routing_key: str | None = None,
        deadline_s: float | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Send rows and wait for the result. Arguments and errors are those of `Client.predict`."""
        request = Request(
            rows=rows,
            model=model,
            version=version,
            routing_key=routing_key,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        return await self._predict(request, timeout_s)

    async def predict_tensors(  # noqa: PLR0913 - as `Client.predict`
        self,
        tensors: Rows,
        *,
        model: str,
        version: str | None = None,
        routing_key: str | None = None,
        deadline_s: float | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> TensorPrediction:
        """Send arrays and get arrays, as binary tensors. Arguments and errors are those of `Client.predict_tensors`."""
        request = Request(
            rows=tensors,
            model=model,
            version=version,
            routing_key=routing_key,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        steps = self._exchanges.tensors.predict(request, timeout_s=self._caller.time_of(timeout_s))
        return await self._caller.run(steps)

    async def submit(  # noqa: PLR0913 - as `Client.submit`
        self,
        rows: Rows,
        *,
        model: str | None = None,
        version: str | None = None,
        routing_key: str | None = None,
        deadline_s: float | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncHandle:
        """Send rows and return once the request is accepted. Arguments and errors are those of `Client.submit`."""
        request = Request(
            rows=rows,
            model=model,
            version=version,
            routing_key=routing_key,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        return self.handle(
            await self._caller.run(self._exchanges.submit(request, timeout_s=self._caller.time_of(timeout_s)))
        )

    def handle(self, request_id: str) -> AsyncHandle:
        """The handle of a request that was accepted before, perhaps by another program."""
        return AsyncHandle(self._caller, request_id)

    async def predict_many(
        self,
        requests: "AsyncIterable[Request | Rows] | Iterable[Request | Rows]",
        *,
        concurrency: int = 16,
        in_order: bool = True,
        model: str | None = None,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Answer]:
        """Send each request and yield what became of each, as `Client.predict_many`; `requests` may be asynchronous.

        Closing the iterator cancels the calls that are under way.

        Raises:
            ValueError: `concurrency` is less than 1.
        """
        most = check_concurrency(concurrency)
        pending: dict[asyncio.Task[Answer], int] = {}
        index = 0
        try:
            async for item in _each(requests):
                request = request_of(item, model=model, version=version)
                pending[asyncio.create_task(self._answer(index, request, timeout_s))] = index
                index += 1
                async for answer in _taken(pending, in_order=in_order, most_left=most - 1):
                    yield answer
            async for answer in _taken(pending, in_order=in_order, most_left=0):
                yield answer
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def models(self) -> tuple[ServedModel, ...]:
        """Every model and version that can be asked for. Errors are those of `Client.models`."""
        return await self._caller.run(self._exchanges.models(timeout_s=self._caller.time_of(None)))

    async def traffic_split(self, model: str | None = None) -> TrafficSplit:
        """The shares of a model's versions. Errors are those of `Client.traffic_split`."""
        return await self._caller.run(self._exchanges.traffic_split(model, timeout_s=self._caller.time_of(None)))

    async def set_traffic_split(self, weights: Mapping[str, float], *, model: str | None = None) -> TrafficSplit:
        """Set the weights of a model's versions. Errors are those of `Client.set_traffic_split`."""
        return await self._caller.run(
            self._exchanges.set_traffic_split(weights, model, timeout_s=self._caller.time_of(None))
        )

    async def metrics(self, version: str, *, model: str | None = None, window_s: float = 300) -> dict[str, Any]:
        """What a version did lately. Errors are those of `Client.metrics`."""
        return await self._caller.run(
            self._exchanges.metrics(version, model, window_s, timeout_s=self._caller.time_of(None))
        )

    async def _answer(self, index: int, request: Request, timeout_s: float | None) -> Answer:
        try:
            return Answer(index=index, outcome=await self._predict(request, timeout_s))
        except CallError as error:
            return Answer(index=index, outcome=error)

    async def _predict(self, request: Request, timeout_s: float | None) -> Prediction:
        return await self._caller.run(self._exchanges.predict(request, timeout_s=self._caller.time_of(timeout_s)))


async def _each(
    requests: "AsyncIterable[Request | Rows] | Iterable[Request | Rows]",
) -> "AsyncIterator[Request | Rows]":
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
        return
    for request in requests:
        yield request


async def _taken(pending: dict[asyncio.Task[Answer], int], *, in_order: bool, most_left: int) -> AsyncIterator[Answer]:
    """What is there, and so many more that at most `most_left` are left. A dict keeps the order of the requests."""
    while pending:
        first = next(iter(pending))
        done = {first} if first.done() else set() if in_order else {task for task in pending if task.done()}
        if not done and len(pending) <= most_left:
            return
        if not done:
            waited, _ = await asyncio.wait({first} if in_order else pending, return_when=asyncio.FIRST_COMPLETED)
            done = waited
        for task in sorted(done, key=pending.__getitem__):
            del pending[task]
            yield task.result()
