"""`python -m benchmarks.versions`: versions are added and retired while clients call a running stack.

Starts a stack of its own in a temporary folder, sends requests at a fixed rate to a version that is always there, and
adds and retires others meanwhile. Exit 1 if a request failed.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from tests.support.fakes.stores import write_tiny_onnx, write_tiny_store
from tests.support.folder_stack import FolderStack

_BODY = {"model": "tiny", "instances": [[1.0, 2.0, 3.0]], "timeout_s": 30}
_HTTP_OK = 200


@dataclass(slots=True)
class Seen:
    """What the clients and the operator met."""

    latencies_s: list[float] = field(default_factory=list)
    # When each request was sent, in the order of the latencies; and what the operator did, from when to when.
    sent_s: list[float] = field(default_factory=list)
    commands: list[tuple[str, float, float]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    late_s: float = 0.0
    add_s: list[float] = field(default_factory=list)
    retire_s: list[float] = field(default_factory=list)


async def _call(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    started_s = time.perf_counter()
    try:
        async with session.post(f"{url}/v1/models/predict", json=_BODY) as answer:
            await answer.read()
            outcome = "" if answer.status == _HTTP_OK else f"HTTP {answer.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome = type(error).__name__
    seen.sent_s.append(started_s)
    seen.latencies_s.append(time.perf_counter() - started_s)
    if outcome:
        seen.failures[outcome] = seen.failures.get(outcome, 0) + 1


async def _send(url: str, seen: Seen, *, rate: float, stop: asyncio.Event) -> None:
    """Send at a fixed rate, whatever the answers take (open loop)."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        next_s = time.perf_counter()
        while not stop.is_set():
            now_s = time.perf_counter()
            # How late this process itself is: what a busy machine adds to every latency.
            seen.late_s = max(seen.late_s, now_s - next_s)
            tasks.create_task(_call(session, url, seen))
            next_s += 1 / rate
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))


def _command(stack: FolderStack, seen: Seen, *arguments: str) -> float:
    started_s = time.perf_counter()
    ran = stack.run(*arguments)
    if ran.returncode:
        sys.exit(f"inferlane {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
    ended_s = time.perf_counter()
    seen.commands.append((" ".join(arguments[:2]), started_s, ended_s))
    return ended_s - started_s


async def _change(stack: FolderStack, source: Path, seen: Seen, *, versions: int, at_once: int) -> None:
    """Add versions, and retire each once `at_once` are there."""
    there: list[str] = []
    for number in range(1, versions + 1):
        seen.add_s.append(
            await asyncio.to_thread(
                _command, stack, seen, "models", "add", str(source), "--name", "coming", "--version", f"v{number}"
            )
        )
        there.append(f"v{number}")
        if number == 1:
            continue
        if number == 2:  # noqa: PLR2004 - the first is the default until then
            await asyncio.to_thread(_command, stack, seen, "models", "default", "coming/v2")
        if len(there) > at_once:
            # Not the default, which goes last.
            leaving = next(version for version in there if version != "v2")
            seen.retire_s.append(
                await asyncio.to_thread(_command, stack, seen, "models", "retire", f"coming/{leaving}")
            )
            there.remove(leaving)
    for leaving in sorted(there, key=lambda version: version == "v2"):
        seen.retire_s.append(await asyncio.to_thread(_command, stack, seen, "models", "retire", f"coming/{leaving}"))


def _slowest(seen: Seen, number: int = 10) -> list[str]:
    """The slowest requests, with the command that ran when each was sent and how long it had run."""
    found = []
    for latency_s, sent_s in sorted(zip(seen.latencies_s, seen.sent_s, strict=True), reverse=True)[:number]:
        during = [
            f"{sent_s - start_s:.1f} of {end_s - start_s:.1f} s of {name!r}"
            for name, start_s, end_s in seen.commands
            if start_s <= sent_s <= end_s
        ]
        found.append(f"{latency_s * 1000:.0f} ms: {', '.join(during) or 'between commands'}")
    return found


def _figures(seen: Seen) -> dict[str, object]:
    latencies_ms = np.array(seen.latencies_s) * 1000
    p50, p99, worst = (float(np.percentile(latencies_ms, share)) for share in (50, 99, 100))
    return {
        "requests": len(seen.latencies_s),
        "failed": seen.failures,
        "over_1s": int((latencies_ms > 1000).sum()),  # noqa: PLR2004 - the target
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "max_ms": round(worst, 1),
        "client_late_at_most_ms": round(seen.late_s * 1000, 1),
        "add_s_median": round(float(np.median(seen.add_s)), 1),
        "retire_s_median": round(float(np.median(seen.retire_s)), 1),
        "slowest": _slowest(seen),
    }


async def _measure(folder: Path, *, versions: int, rate: float, at_once: int) -> Seen:
    write_tiny_store(folder / "models")
    write_tiny_onnx(folder / "export.onnx")
    stack = FolderStack(folder)
    seen, stop = Seen(), asyncio.Event()
    await asyncio.to_thread(_command, stack, seen, "up", "--detach", "--fixed")
    try:
        sending = asyncio.create_task(_send(stack.url, seen, rate=rate, stop=stop))
        await _change(stack, folder / "export.onnx", seen, versions=versions, at_once=at_once)
        stop.set()
        await sending
    finally:
        stop.set()
        await asyncio.to_thread(stack.run, "down")
    return seen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=20, help="versions that are added and retired; default: 20")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second meanwhile; default: 100")
    parser.add_argument("--at-once", type=int, default=3, help="versions that are there at a time; default: 3")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(_measure(Path(folder), versions=chosen.versions, rate=chosen.rate, at_once=chosen.at_once))
    print(json.dumps(_figures(seen), indent=2))
    if seen.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
