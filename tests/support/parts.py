"""A real broker and a real store for one test module."""

import asyncio
import os
import signal
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp

from control_plane.local.embedded_parts import store_answers, store_argv
from inferlane.errors import UnavailableError
from tests.support.brokers.processes import free_ports

_POLL_S = 0.02


def free_port() -> int:
    (port,) = free_ports(1)
    return port


async def eventually(is_so: Callable[[], Awaitable[bool]], *, within_s: float = 120.0) -> None:
    """Return when it is so; fail the test if it is not within the time."""
    deadline_s = time.monotonic() + within_s
    while not await is_so():
        assert time.monotonic() < deadline_s, f"not so within {within_s} s"
        await asyncio.sleep(_POLL_S)


async def is_ready(url: str) -> bool:
    """Whether the process at `url` says that it is."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def running(
    argv: Sequence[str], answers: Callable[[], Awaitable[bool]], *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Run a server; yields its process id when it answers, and kills it (SIGKILL) at the end of the block.

    What it writes is gone with it. Without an environment it has this process's.
    """
    # A replica writes what it gets from its master to the folder that it runs in.
    with tempfile.TemporaryDirectory(prefix="inferlane-server-") as folder:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=DEVNULL, stderr=DEVNULL, cwd=folder, env=environment
        )

        async def is_up() -> bool:
            with suppress(UnavailableError):
                return await answers()
            return False

        try:
            await eventually(is_up)
            yield process.pid
        finally:
            process.kill()
            await process.wait()


@asynccontextmanager
async def embedded_store() -> AsyncIterator[str]:
    """Yields the URL of a Valkey."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    async with running(store_argv(port, maxmemory_mib=64), lambda: store_answers(url)):
        yield url


@asynccontextmanager
async def embedded_store_process(*, maxmemory_mib: int = 64) -> AsyncIterator[tuple[str, int]]:
    """Yields the URL of a Valkey and its process id."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    async with running(store_argv(port, maxmemory_mib=maxmemory_mib), lambda: store_answers(url)) as pid:
        yield url, pid


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop the processes where they are (SIGSTOP) while the block runs."""
    stopped = list(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
