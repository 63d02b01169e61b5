"""What a stack takes of a machine: memory after load, the time until it is ready, the CPU of a command."""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from benchmarks.cases import SAMPLES as SAMPLE_STORE
from benchmarks.cases import Case
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.wrk import run_wrk

ONE_VERSION, SAMPLES = "one version", "the sample models"
COMMANDS = ("inferlane --help", "inferlane status")
_MIB = 1024 * 1024
# Broker and store keep what they were sent, so memory depends on the number: as many as the stack first answered in the
# 20 s of this load.
REQUESTS = 80_000
_LOAD_S = 2
_CONCURRENCIES = (64, 256)
_TRIES = 5


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """`ready_s` is from the start of the command; memory is the proportional set size of each process after load."""

    ready_s: float
    answered: int
    pss_mib: dict[str, float]


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Each stack by its title; the smallest CPU of a few runs by command."""

    machine: Machine
    stacks: dict[str, Stack]
    commands_s: dict[str, float]


def measure_footprint(case: Case) -> Footprint:
    """Start the stack of the one model of `case`, and that of the sample models, and load each."""
    stacks = {
        ONE_VERSION: _measure_stack(case, {}),
        SAMPLES: _measure_stack(case, {"INFERLANE_MODELS_DIR": str(SAMPLE_STORE.absolute())}),
    }
    commands = {command: min(_cpu_s(command) for _ in range(_TRIES)) for command in COMMANDS}
    return Footprint(machine=this_machine(), stacks=stacks, commands_s=commands)


def _measure_stack(case: Case, environment: Mapping[str, str]) -> Stack:
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, serve_inferlane(case, environment=environment) as running:
        ready_s = time.perf_counter() - started_s
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        answered = 0
        for concurrency in itertools.cycle(_CONCURRENCIES):
            answered += run_wrk(running.url, body, concurrency=concurrency, seconds=_LOAD_S).answered
            if answered >= REQUESTS:
                break
        processes = {**running.processes, **_unnamed(running.processes)}
        memory = {name: psutil.Process(pid).memory_full_info().pss / _MIB for name, pid in processes.items()}
    return Stack(ready_s=ready_s, answered=answered, pss_mib=memory)


def _unnamed(processes: Mapping[str, int]) -> dict[str, int]:
    """The processes below the supervisor that `processes` does not name, by their titles: the fork server."""
    below = psutil.Process(processes["supervisor"]).children(recursive=True)
    known = set(processes.values())
    return {" ".join(one.cmdline()).strip("\0 "): one.pid for one in below if one.pid not in known}


def _cpu_s(command: str) -> float:
    program, *arguments = command.split()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [str(Path(sys.executable).with_name(program)), *arguments]
    # With no stack here, `status` ends with 1.
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def footprint_to_markdown(footprint: Footprint) -> str:
    """A table of the processes of each stack, and one of the commands."""
    lines = ["## What a stack takes", "", f"{footprint.machine.measured_at}."]
    for title, stack in footprint.stacks.items():
        lines += ["", f"### {title}: ready after {stack.ready_s:.1f} s", ""]
        lines += [f"| process | PSS after {stack.answered:,} requests, MiB |", "|---|---:|"]
        lines += [f"| {name} | {mib:.0f} |" for name, mib in stack.pss_mib.items()]
        lines += [f"| all | {sum(stack.pss_mib.values()):.0f} |"]
    lines += ["", "| command | CPU-s |", "|---|---:|"]
    lines += [f"| `{command}` | {spent:.2f} |" for command, spent in footprint.commands_s.items()]
    return "\n".join(lines) + "\n"
