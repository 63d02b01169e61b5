"""Traffic of every kind, until it is told to stop."""

import asyncio
import threading
from http import HTTPStatus
from types import TracebackType
from typing import Self

from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import make_producer
from tests.support.keyed_stack import KeyedStack

NAMES = Names()

_ROW = [5.1, 3.5, 1.4, 0.2]
_DIGIT = [0.5] * 64
# It is under way for as long as anybody looks.
_ROLLOUT = {
    "model": "digits",
    "candidate": "v2-quantized",
    "steps": ["50%", "100%"],
    "each": {"min_requests": 1_000_000, "min_time": "1d", "max_wait": "2d"},
}
_PAUSE_S = 0.05
_TIMEOUT_S = 60
_FOREIGN = b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}'


class Load:
    """Sends in a thread: predictions by a split of 80 to 20, those of a model with a rollout, idempotency keys, what
    nobody can serve or may ask, bulk, bad records.
    """

    def __init__(self, stack: KeyedStack) -> None:
        self._post = stack.post
        self._settings = load_settings(
            kafka_bootstrap_servers=f"127.0.0.1:{stack.broker_port}", kafka_idempotence=False
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        assert self._post("/v1/traffic-split", {"v1": 80, "v2": 20})[0] == HTTPStatus.OK
        assert self._post("/v1/rollouts", _ROLLOUT)[0] == HTTPStatus.CREATED
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
            self._post("/v1/models/predict", {"instances": [_DIGIT], "model": "digits"})
            self._post("/v1/models/predict", {"instances": [_ROW]}, idempotency_key=f"key-{number // 2}")
            if number % 10 == 0:
                self._post("/v1/models/predict", {"instances": [[1.0]]})
                self._post("/v1/models/predict", {"instances": [_ROW], "model": "rose"})
                self._post("/v1/models/predict", {"instances": [_ROW]}, authorization="Bearer nobody's")
                for version in ("v1", "v2"):
                    self._post("/v1/models/predict", {"instances": [_ROW], "version": version})
            if number % 20 == 1:
                asyncio.run(self._produce())

    async def _produce(self) -> None:
        async with make_producer(self._settings.kafka) as producer:
            await producer.send_and_wait(NAMES.ingress[Lane.BULK], _FOREIGN)
            await producer.send_and_wait(NAMES.ingress[Lane.REQUESTS], b"not a request")
