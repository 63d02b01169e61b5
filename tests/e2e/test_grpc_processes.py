"""The gRPC port of a stack with two API processes: both serve it, and the death of one loses nothing."""

import asyncio
import os
import signal
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from producer_api.grpc_server.protocol_messages import InferRequest
from tests.support.grpc_calls import Calls, calling
from tests.support.keyed_stack import KeyedStack
from tests.support.parts import eventually

pytestmark = pytest.mark.timeout(900)

# All of them on one of two processes would be a coincidence in half a million.
CONNECTIONS = 20
CALLS_BEFORE, CALLS_AFTER = 10, 20
PROCESSES = ("api-1", "api-2")


def request_of(number: int) -> Any:
    request = InferRequest(model_name="pair")
    for name, values in (("left", np.zeros((1, 3), np.float32)), ("right", np.array([number]))):
        request.inputs.add(name=name, datatype="FP32" if name == "left" else "INT64", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    return request


def answers_by(stack: KeyedStack, process: str) -> float:
    """How many calls the process itself has answered."""
    url = f"{stack.process(process).ops_url}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - our own server
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "inferlane_api_answers_total" and sample.labels["model"] == "pair"
    )


class _Client:
    """Calls over a connection of its own, one after the other, each repeated with its key until it is answered."""

    def __init__(self, calls: Calls, first: int, ended: Counter[Any]) -> None:
        self._calls = calls
        self._numbers = iter(range(first, first + 1_000_000))
        self._ended = ended

    async def ask(self, count: int) -> None:
        for _ in range(count):
            number = next(self._numbers)
            answer = await self._ask(request_of(number), key=f"processes-{number}")
            (same,) = (
                np.frombuffer(raw, np.int64).tolist()
                for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
                if output.name == "same"
            )
            assert same == [number]

    async def _ask(self, request: Any, *, key: str) -> Any:
        while True:
            try:
                answer = await self._calls.infer(request, timeout_s=60, idempotency_key=key)
            except grpc.aio.AioRpcError as error:
                self._ended[error.code()] += 1
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                self._ended[grpc.StatusCode.OK] += 1
                return answer


async def test_both_processes_serve_the_port_and_the_death_of_one_loses_no_call(keyed: KeyedStack) -> None:
    assert keyed.authority is not None
    trust = grpc.ssl_channel_credentials(keyed.authority.read_bytes())
    ended: Counter[Any] = Counter()
    before = {process: answers_by(keyed, process) for process in PROCESSES}
    async with AsyncExitStack() as channels:
        clients = [
            _Client(
                await channels.enter_async_context(
                    calling(keyed.grpc_port, key=keyed.admin_key, credentials=trust, has_own_connection=True)
                ),
                number * 1_000_000,
                ended,
            )
            for number in range(CONNECTIONS)
        ]
        await asyncio.gather(*(client.ask(CALLS_BEFORE) for client in clients))
        assert all(answers_by(keyed, process) > before[process] for process in PROCESSES)
        killed = keyed.process("api-1").pid
        asking = [asyncio.create_task(client.ask(CALLS_AFTER)) for client in clients]

        async def is_under_load() -> bool:
            return ended[grpc.StatusCode.OK] > CONNECTIONS * (CALLS_BEFORE + 1)

        await eventually(is_under_load)
        os.kill(killed, signal.SIGKILL)
        await asyncio.gather(*asking)
    # Each call got its own answer, after UNAVAILABLE where its process died.
    assert ended.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert ended[grpc.StatusCode.OK] == CONNECTIONS * (CALLS_BEFORE + CALLS_AFTER)
    assert ended[grpc.StatusCode.UNAVAILABLE] > 0

    async def is_back() -> bool:
        record = await asyncio.to_thread(keyed.process, "api-1")
        return record.pid != killed and record.state == "ready"

    # Its supervisor starts it again, for the tests that follow too.
    await eventually(is_back, within_s=120)
