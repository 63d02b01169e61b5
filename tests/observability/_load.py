"""Traffic of every kind, until it is told to stop."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any, Self

from inferlane.config import load_settings
from inferlane.kafka.clients import make_producer
from inferlane.topics import INGRESS, Lane

_ROW = [5.1, 3.5, 1.4, 0.2]
_PAUSE_S = 0.05
_TIMEOUT_S = 60
_FOREIGN = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'


class Load:
    """Sends in a thread: predictions by a split of 80 to 20, keys, what nobody can serve, bulk, bad records."""

    def __init__(self, *, api_port: int, broker_port: int) -> None:
        self.api_port = api_port
        self._settings = load_settings(
            kafka_bootstrap_servers=f"127.0.0.1:{broker_port}", kafka_idempotence=False, fetch_max_wait_ms=5
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        assert self._post("/v1/traffic-split", {"v1": 80, "v2": 20}) == 200
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(_PAUSE_S):
            number += 1
            self._post("/v1/models/predict", {"instances": [_ROW]})
            self._post("/v1/models/predict", {"instances": [_ROW]}, idempotency_key=f"key-{number // 2}")
            if number % 10 == 0:
                self._post("/v1/models/predict", {"instances": [[1.0]]})
                self._post("/v1/models/predict", {"instances": [_ROW], "model": "rose"})
                for version in ("v1", "v2"):
                    self._post("/v1/models/predict", {"instances": [_ROW], "version": version})
            if number % 20 == 1:
                asyncio.run(self._produce())

    async def _produce(self) -> None:
        async with make_producer(self._settings) as producer:
            await producer.send_and_wait(INGRESS[Lane.BULK], _FOREIGN)
            await producer.send_and_wait(INGRESS[Lane.REQUESTS], b"not a request")

    def _post(self, path: str, body: Any, **headers: str) -> int:
        named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        url = f"http://127.0.0.1:{self.api_port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), named)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
