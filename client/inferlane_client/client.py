"""The client of programs without an event loop."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Self

from inferlane_client.answers import Answer, Prediction, ServedModel, TrafficSplit
from inferlane_client.binary_tensors import TensorPrediction
from inferlane_client.call_errors import CallError
from inferlane_client.callers import Caller
from inferlane_client.handles import Handle
from inferlane_client.request import Request, Rows, check_concurrency, request_of
from inferlane_client.retries import Retries
from inferlane_client.rollout_calls import Rollouts
from inferlane_client.server_connection import DEFAULT_CONNECTIONS, DEFAULT_URL, Connection, Tls


class Client:
    """Calls one Inferlane server. May be shared by threads; close it, or use it as a context manager.

    Every call may raise a `CallError`; each says which ones to expect. Calls that the server did not take (429, 503, no
    connection) are sent again until their time is over; a request keeps its `Idempotency-Key` meanwhile, so it is
    computed once. An answer may come up to a second after the time of its call.

    Args:
        url: where the API is, with any prefix that a proxy gives it.
        api_key: sent as `Authorization: Bearer`.
        timeout_s: the time of each call that names none, retries and waits included.
        retries: how calls are sent again.
        tls: how an `https` server is checked.
        connections: how many calls may be under way; others wait.
        trust_env: whether `HTTP_PROXY` and the like count.

    Raises:
        ValueError: the URL is not one of a server.
        OSError: a certificate's file cannot be read.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that may differ between two servers
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
        connection = Connection(url, api_key=api_key, tls=tls, connections=connections, trust_env=trust_env)
        self._caller = Caller(connection, retries, timeout_s)
        self._exchanges = self._caller.exchanges
        self.rollouts = Rollouts(self._caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._caller.close()

    def predict(  # noqa: PLR0913 - the fields of a request, so that most callers need not make one
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
        """Send rows and wait for the result.

        Args:
            rows: one element a row: a sequence, a numpy array `(rows, …)`, a pandas or pyarrow frame, table or column.
                For a model of several inputs a mapping of their names to such columns, or one object a row.
            model: its name; else the server's default model.
            version: pins the request to a version; else the traffic split chooses.
            routing_key: requests with one key go to one version.
            deadline_s: seconds after which the answer is worth nothing, and nothing is computed.
            callback_url: a URL to which the result is also POSTed, if the server sends callbacks.
            idempotency_key: the same key is the same request; one is made up if there is none.
            timeout_s: the time of the call; else that of the client.

        Raises:
            InvalidRequest: the request cannot be served as it stands.
            NotFound: no such model or version.
            Unauthorized: no API key, or one that is not in force.
            Unavailable: the server did not take the request, however often it was sent.
            TimedOut: the result was not there in time; the request goes on.
            Unsuccessful: the request ended without a result.
        """
        request = Request(
            rows=rows,
            model=model,
            version=version,
            routing_key=routing_key,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        return self._predict(request, timeout_s)

    def predict_tensors(  # noqa: PLR0913 - as `predict`
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
        """Send numpy arrays as binary tensors, wait for the result, and get the outputs as arrays.

        Nothing becomes text on the way: it is the call for large inputs. Errors are those of `predict`.

        Args:
            tensors: a mapping of input names to arrays whose first axis is that of the rows; or the array of the only
                input, whose name is asked of the server once. Text and bytes are arrays of them, or of objects.
            model: its name, which the protocol needs.
            version: as in `predict`.
            routing_key: as in `predict`.
            deadline_s: as in `predict`.
            callback_url: as in `predict`.
            idempotency_key: as in `predict`.
            timeout_s: as in `predict`.
        """
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
        return self._caller.run(steps)

    def submit(  # noqa: PLR0913 - as `predict`
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
    ) -> Handle:
        """Send rows and return once the request is accepted. Arguments and refusals are those of `predict`.

        Raises:
            TimedOut: the server did not say in time whether it has the request.
        """
        request = Request(
            rows=rows,
            model=model,
            version=version,
            routing_key=routing_key,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        return self.handle(self._caller.run(self._exchanges.submit(request, timeout_s=self._caller.time_of(timeout_s))))

    def handle(self, request_id: str) -> Handle:
        """The handle of a request that was accepted before, perhaps by another program."""
        return Handle(self._caller, request_id)

    def predict_many(
        self,
        requests: "Iterable[Request | Rows]",
        *,
        concurrency: int = 16,
        in_order: bool = True,
        model: str | None = None,
        version: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Answer]:
        """Send each request, with at most `concurrency` under way or waiting to be read, and yield what became of each.

        A request that fails does not end the others: its answer holds the error. Requests are read as there is room
        for them, so there may be any number. Leaving the loop waits for those under way.

        Args:
            requests: rows as `predict` takes them, or `Request`s where they differ in more than the rows.
            concurrency: no more than the client's `connections` is of use.
            in_order: whether answers come in the order of the requests, or as they are there.
            model: of requests that name none.
            version: of requests that name none.
            timeout_s: the time of each request.

        Raises:
            ValueError: `concurrency` is less than 1.
        """
        most = check_concurrency(concurrency)
        with ThreadPoolExecutor(max_workers=most, thread_name_prefix="predict-many") as threads:
            pending: dict[Future[Answer], int] = {}
            try:
                for index, item in enumerate(requests):
                    request = request_of(item, model=model, version=version)
                    pending[threads.submit(self._answer, index, request, timeout_s)] = index
                    yield from _taken(pending, in_order=in_order, most_left=most - 1)
                yield from _taken(pending, in_order=in_order, most_left=0)
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def models(self) -> tuple[ServedModel, ...]:
        """Every model and version that can be asked for.

        Raises CallError where the server did not say.
        """
        return self._caller.run(self._exchanges.models(timeout_s=self._caller.time_of(None)))

    def traffic_split(self, model: str | None = None) -> TrafficSplit:
        """The shares of a model's versions, of the default model if none is named.

        Raises:
            NotFound: no such model.
        """
        return self._caller.run(self._exchanges.traffic_split(model, timeout_s=self._caller.time_of(None)))

    def set_traffic_split(self, weights: Mapping[str, float], *, model: str | None = None) -> TrafficSplit:
        """Set the weights of a model's versions, and return the shares that they make. Needs an `admin` key.

        Raises:
            InvalidRequest: the weights make no split.
            NotFound: no such model or version.
            Forbidden: the key has not the scope.
        """
        return self._caller.run(self._exchanges.set_traffic_split(weights, model, timeout_s=self._caller.time_of(None)))

    def metrics(self, version: str, *, model: str | None = None, window_s: float = 300) -> dict[str, Any]:
        """What a version did in the last `window_s` seconds, as `GET /v1/metrics/{version}` documents it.

        Raises:
            NotFound: no such model or version.
            InvalidRequest: the window is longer than what is kept.
        """
        return self._caller.run(self._exchanges.metrics(version, model, window_s, timeout_s=self._caller.time_of(None)))

    def _answer(self, index: int, request: Request, timeout_s: float | None) -> Answer:
        try:
            return Answer(index=index, outcome=self._predict(request, timeout_s))
        except CallError as error:
            return Answer(index=index, outcome=error)

    def _predict(self, request: Request, timeout_s: float | None) -> Prediction:
        return self._caller.run(self._exchanges.predict(request, timeout_s=self._caller.time_of(timeout_s)))


def _taken(pending: dict[Future[Answer], int], *, in_order: bool, most_left: int) -> Iterator[Answer]:
    """What is there, and so many more that at most `most_left` are left. A dict keeps the order of the requests."""
    while pending:
        first = next(iter(pending))
        done = {first} if first.done() else set() if in_order else {future for future in pending if future.done()}
        if not done and len(pending) <= most_left:
            return
        if not done:
            done = wait({first} if in_order else pending, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=pending.__getitem__):
            del pending[future]
            yield future.result()
