"""Where the CPU of each process goes under load: a sampling profiler on API, router and worker, as tables."""

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.figures import per_thousand
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.usage import cpu_by_process
from benchmarks.venvs import environment_of
from benchmarks.wrk import run_wrk

_PROFILER = Path(__file__).with_name("profiler")
_WARM_UP_S = 3
# More would take the CPU that they measure: each sample stops the process.
_SAMPLES_A_SECOND = 250
_ROWS = 40
# Samples in which a process only waits for the next event; the profiler does not always tell that from work.
_IDLE = ("select", "poll", "epoll_wait")


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """One function: the share of samples in itself, and in itself with all that it calls."""

    name: str
    own: float
    total: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One process; `functions` are those with the largest own share, then those with the largest total."""

    process: str
    samples: int
    cpu_s_per_1000: float
    own: tuple[Function, ...]
    total: tuple[Function, ...]


class Profiles(msgspec.Struct, frozen=True, kw_only=True):
    """A profile of each process under the load of `concurrency`."""

    case: str
    machine: Machine
    concurrency: int
    profiles: tuple[Profile, ...]


def measure_profiles(case: Case, *, concurrency: int, seconds: int) -> Profiles:
    """Load the stack once without the profiler, for the CPU, and once with it, for the shares."""
    py_spy = environment_of(_PROFILER) / "py-spy"
    with tempfile.TemporaryDirectory() as folder, serve_inferlane(case) as running:
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        run_wrk(running.url, body, concurrency=concurrency, seconds=_WARM_UP_S)
        before = cpu_by_process(running.processes)
        result = run_wrk(running.url, body, concurrency=concurrency, seconds=seconds)
        after = cpu_by_process(running.processes)
        pids = {name: pid for name, pid in running.processes.items() if _is_profiled(name)}
        files = {name: Path(folder) / f"{name}.raw" for name in pids}
        with ThreadPoolExecutor(len(pids) + 1) as threads:
            load = threads.submit(run_wrk, running.url, body, concurrency=concurrency, seconds=seconds + 2)
            time.sleep(1)
            recording = [
                threads.submit(_record, py_spy, pid, files[name], seconds=seconds) for name, pid in pids.items()
            ]
            for one in recording:
                one.result()
            load.result()
        profiles = tuple(
            _profile(
                name,
                files[name].read_text(encoding="utf-8"),
                cpu_s_per_1000=per_thousand(after[name] - before[name], result.answered),
            )
            for name in pids
        )
    return Profiles(case=case.name, machine=this_machine(), concurrency=concurrency, profiles=profiles)


def _is_profiled(name: str) -> bool:
    return name in {"api", "router"} or name.startswith("worker")


def _record(py_spy: Path, pid: int, out: Path, *, seconds: int) -> None:
    argv = [str(py_spy), "record", "--pid", str(pid), "--output", str(out), "--format", "raw", "--function"]
    argv += ["--duration", str(seconds), "--rate", str(_SAMPLES_A_SECOND)]
    subprocess.run(argv, check=True, capture_output=True)


def _profile(process: str, stacks: str, *, cpu_s_per_1000: float) -> Profile:
    counted = dict(read_stacks(stacks.splitlines()))
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, samples in counted.items():
        own[stack[-1]] += samples
        for name in set(stack):
            total[name] += samples
    samples = sum(counted.values())
    functions = {name: Function(name=name, own=own[name] / samples, total=total[name] / samples) for name in total}
    return Profile(
        process=process,
        samples=samples,
        cpu_s_per_1000=cpu_s_per_1000,
        own=_largest(functions, own),
        total=_largest(functions, total),
    )


def _largest(functions: Mapping[str, Function], by: "Counter[str]") -> tuple[Function, ...]:
    return tuple(functions[name] for name, _ in by.most_common(_ROWS))


def read_stacks(lines: Iterable[str]) -> Iterable[tuple[tuple[str, ...], int]]:
    """Yield each stack, outermost first, with its samples, from lines as `a;b;c 12`; idle ones are left out."""
    for line in lines:
        text, _, count = line.rpartition(" ")
        stack = tuple(text.split(";"))
        if not stack[-1].startswith(_IDLE):
            yield stack, int(count)


def profiles_to_markdown(profiles: Profiles) -> str:
    """Two tables a process."""
    lines = [
        f"## Where the CPU goes: {profiles.case}, concurrency {profiles.concurrency}",
        "",
        f"{profiles.machine.measured_at}. Shares are of the samples in which the process did not wait.",
    ]
    for one in profiles.profiles:
        lines += ["", f"### {one.process}: {one.cpu_s_per_1000:.3f} CPU-s for 1,000 requests, {one.samples:,} samples"]
        for title, functions in (("by itself", one.own), ("with all that it calls", one.total)):
            lines += ["", f"| function, {title} | own | total | own, µs of a request |", "|---|---:|---:|---:|"]
            lines += [
                f"| `{name}` | {own:.1%} | {total:.1%} | {own * one.cpu_s_per_1000 * 1000:.1f} |"
                for name, own, total in ((found.name, found.own, found.total) for found in functions)
            ]
    return "\n".join(lines) + "\n"
