"""Services that are started while the broker and the store are away: they wait, say for what, and end when told to."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_plane.local.embedded_parts import store_answers, store_argv
from control_plane.topic_admin import create_topics
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.brokers.processes import free_ports
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import eventually, free_port, is_ready, running

pytestmark = pytest.mark.timeout(300)

ENDS_WITHIN_S = 60.0
SERVICES = {
    "api": ("api",),
    "router": ("router",),
    "worker": ("worker", "--model", "tiny", "--version", "v1"),
}
services = pytest.mark.parametrize("service", SERVICES)


class Parts:
    """A broker and a store that are not there yet, and the settings that name them."""

    def __init__(self, folder: Path) -> None:
        self.broker = EmbeddedBroker()
        self.store_port, self.port, self.ops_port = free_ports(3)
        self.store_url = f"redis://127.0.0.1:{self.store_port}/0"
        write_tiny_store(folder)
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_endless(self) -> None:
        """Make the version one that nobody can finish reading."""
        about = self._folder / "tiny" / "v1" / "version.toml"
        about.unlink()
        os.mkfifo(about)

    def environment(self, service: str) -> dict[str, str]:
        # The API answers for its health at its own port, and opens an ops port beside it.
        return self.broker.environment(
            redis_url=self.store_url,
            models_dir=self._folder,
            default_model="tiny",
            api_port=self.port,
            ops_port=self.ops_port if service == "api" else self.port,
            kafka_request_timeout_ms=2_000,
        )


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "models")


@asynccontextmanager
async def started(service: str, parts: Parts) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "control_plane", *SERVICES[service]),
        env=os.environ | parts.environment(service),
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answer_of(url: str) -> tuple[int, Any]:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.json(content_type=None)
    except aiohttp.ClientError:
        return 0, {}


async def wait_for_failing(parts: Parts, part: str) -> None:
    async def is_failing() -> bool:
        status, body = await answer_of(f"{parts.url}/readyz")
        return status == 503 and body["checks"].get(part) == "failing"

    await eventually(is_failing)


@services
async def test_it_says_what_it_waits_for_and_ends_at_the_first_signal(service: str, parts: Parts) -> None:
    async with started(service, parts) as process:
        await wait_for_failing(parts, "broker")
        assert (await answer_of(f"{parts.url}/livez"))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), ENDS_WITHIN_S) == 0


async def test_a_worker_that_still_loads_lives_and_ends_at_the_first_signal(parts: Parts) -> None:
    """A load takes minutes where files are pulled; a read of a pipe that nobody writes to takes for ever."""
    parts.make_endless()
    async with started("worker", parts) as process:
        await wait_for_failing(parts, "version")
        assert (await answer_of(f"{parts.url}/livez"))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), ENDS_WITHIN_S) == 0


@services
async def test_it_serves_once_broker_and_store_are_there_and_is_unready_while_the_broker_is_frozen(
    service: str, parts: Parts
) -> None:
    async with started(service, parts) as process:
        await wait_for_failing(parts, "broker")
        try:
            await asyncio.to_thread(parts.broker.open)
            await create_topics(
                parts.broker.settings().kafka,
                parts.broker.settings().stack.names,
                parts.broker.settings().webhooks,
                [("tiny", "v1")],
            )
            await wait_for_failing(parts, "store")

            async def is_store_up() -> bool:
                return await store_answers(parts.store_url)

            async with running(store_argv(parts.store_port, maxmemory_mib=64), is_store_up):
                await eventually(lambda: is_ready(parts.url))
                assert process.returncode is None
                parts.broker.pause()
                try:
                    await wait_for_failing(parts, "broker")
                    assert (await answer_of(f"{parts.url}/livez"))[0] == 200
                finally:
                    parts.broker.resume()
                await eventually(lambda: is_ready(parts.url))
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), ENDS_WITHIN_S) == 0
        finally:
            await asyncio.to_thread(parts.broker.close)


async def test_an_api_that_waits_refuses_calls_with_what_it_waits_for(parts: Parts) -> None:
    async with started("api", parts):
        await wait_for_failing(parts, "broker")
        assert await answer_of(f"{parts.url}/v2/health/live") == (200, {"live": True})
        assert await answer_of(f"{parts.url}/v2/health/ready") == (503, {"ready": False})
        status, body = await answer_of(f"{parts.url}/v2/models/tiny")
        assert (status, list(body)) == (503, ["error"])
        assert "waits for the broker" in body["error"]
        async with aiohttp.ClientSession() as session:
            body = {"instances": [[1.0, 2.0, 3.0]]}
            async with session.post(f"{parts.url}/v1/models/predict", json=body) as answer:
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["code"]) == (503, "unavailable")
                assert "it waits for the broker" in problem["detail"]
                assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise RuntimeError('gencode 7 runtime 6')", "do not fit together: gencode 7 runtime 6"),
        ("import no_such_module", "needs the package no_such_module"),
    ],
)
def test_an_extra_that_is_not_there_as_a_whole_is_one_clear_error(tmp_path: Path, content: str, said: str) -> None:
    """A client of gRPC in the same environment replaced protobuf, and the next start ended with a stack trace."""
    write_tiny_store(tmp_path / "models")
    health = tmp_path / "grpc_health" / "v1"
    health.mkdir(parents=True)
    for package in (health, health.parent):
        (package / "__init__.py").touch()
    (health / "health_pb2_grpc.py").write_text(content)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}",
        "INFERLANE_MODELS_DIR": str(tmp_path / "models"),
        "INFERLANE_DEFAULT_MODEL": "tiny",
        "INFERLANE_API_PORT": str(free_port()),
        "INFERLANE_GRPC_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "control_plane", "api"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "INFERLANE_GRPC_PORT=0" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
