"""A process that starts services by a fork server, as `inferlane up` does, and says on standard output what it sees.

Of its own, because a fork server starts only where there is one thread, and a test session has more.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil

from control_plane.local.child_process import Child, ProcessSpec, start_child
from control_plane.local.fork_server import ForkServer, ForkServerError

WAIT_S = 20.0
LOADED: list[int] = []
# What `argv` runs, where a service is executed.
EXECUTED = "print('executed', flush=True)"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def load() -> None:
    """Stand for the modules: a service that was forked has what this leaves."""
    LOADED.append(os.getpid())


def run(arguments: Sequence[str]) -> int:
    """The services: `describe` itself, `wait` for a signal, or `raise`."""
    if arguments[0] == "wait":
        _say("waiting")
        signal.pause()
    if arguments[0] == "raise":
        raise RuntimeError("a fault of the service")
    shown = {
        "pid": os.getpid(),
        "loaded_by": LOADED,
        "environment": dict(os.environ),
        "environment_of_proc": Path("/proc/self/environ").read_bytes().decode(errors="replace"),
        "command": psutil.Process().cmdline(),
        "parent": os.getppid(),
        "leads_session": os.getsid(0) == os.getpid(),
        "descriptors": sorted(str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()),
        "input": str(Path("/proc/self/fd/0").readlink()),
    }
    _say(json.dumps(shown))
    return 7


def spec(arguments: Sequence[str], log_path: Path, forks: ForkServer, environment: Mapping[str, str]) -> ProcessSpec:
    """A service that is ready at once."""

    async def is_ready() -> bool:
        return True

    return ProcessSpec(
        name="service",
        argv=(sys.executable, "-S", "-c", EXECUTED),
        arguments=tuple(arguments),
        forks=forks,
        env=environment,
        log_path=log_path,
        is_ready=is_ready,
        port=0,
    )


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - no event tells of a line in a file
            await asyncio.sleep(0.01)


async def describe(folder: Path, forks: ForkServer) -> None:
    """One service that says what it is."""
    child = await start_child(spec(["describe", "--a", "b"], folder / "log", forks, {"OWN": "x"}))
    code = await child.wait()
    _say(json.dumps({"supervisor": os.getpid(), "code": code, "service": json.loads((folder / "log").read_text())}))


async def fail(folder: Path, forks: ForkServer) -> None:
    """One service that raises."""
    child = await start_child(spec(["raise"], folder / "log", forks, {}))
    _say(json.dumps({"code": await child.wait(), "log": (folder / "log").read_text()}))


async def _waiting(path: Path, forks: ForkServer) -> Child:
    child = await start_child(spec(["wait"], path, forks, {}))
    await _until(lambda: path.read_text() == "waiting\n")
    return child


async def outlive(folder: Path, forks: ForkServer) -> None:
    """A service whose server is killed, and one that is started after that."""
    child = await _waiting(folder / "log", forks)
    os.kill(forks.pid, signal.SIGKILL)
    second = await start_child(spec(["wait"], folder / "second", forks, {}))
    second_code = await second.wait()
    is_running = child.is_running
    child.kill()
    _say(
        json.dumps(
            {
                "ran_on": is_running,
                "code": await child.wait(),
                "second": (folder / "second").read_text(),
                "second_code": second_code,
                "zombies": [one.pid for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE],
            }
        )
    )


async def hang(folder: Path, forks: ForkServer) -> None:
    """A service that is started while the server hangs."""
    forks._patience_s = 0.2
    os.kill(forks.pid, signal.SIGSTOP)
    child = await start_child(spec(["wait"], folder / "log", forks, {}))
    _say(json.dumps({"code": await child.wait(), "log": (folder / "log").read_text()}))


async def be_killed(folder: Path, forks: ForkServer) -> None:
    """Wait, with a service, for whoever kills this process."""
    child = await _waiting(folder / "log", forks)
    _say(json.dumps({"service": child.pid, "server": forks.pid}))
    await asyncio.Event().wait()


def load_a_thread() -> None:
    """Stand for modules of which one starts a thread."""
    threading.Thread(target=time.sleep, args=(WAIT_S,), daemon=True).start()


def with_a_thread() -> None:
    """Start a fork server beside a thread."""
    load_a_thread()
    _start_refused(load)


def loading_a_thread() -> None:
    """Start a fork server with such modules."""
    _start_refused(load_a_thread)


def _start_refused(load_modules: Callable[[], None]) -> None:
    try:
        ForkServer.start(load_modules, run)
    except ForkServerError as error:
        _say(json.dumps({"error": str(error)}))


CASES: dict[str, Callable[[Path, ForkServer], Awaitable[None]]] = {
    case.__name__: case for case in (describe, fail, outlive, hang, be_killed)
}
REFUSED: dict[str, Callable[[], None]] = {case.__name__: case for case in (with_a_thread, loading_a_thread)}


async def _run_case(name: str, folder: Path, forks: ForkServer) -> None:
    await CASES[name](folder, forks)


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name in REFUSED:
        REFUSED[name]()
    else:
        forks = ForkServer.start(load, run)
        asyncio.run(_run_case(name, folder, forks))
        forks.close()
