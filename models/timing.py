"""Latencies of runs that are compared, and the CPU that they were measured on."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Enough for a steady median on a shared machine. A turn is many runs, because a worker serves one model and finds its
# weights in the CPU's cache.
_TURNS = 10
_WARM_UP_RUNS = 5
_RUNS = 20


def interleaved_medians_us(runs: Sequence[Callable[[], object]], *, limit_s: float = float("inf")) -> tuple[float, ...]:
    """The median latency of each of `runs` in microseconds; all have had a turn when `limit_s` ends it early.

    They take turns, so that a change in the machine's load touches all of them alike.
    """
    latencies_ns: list[list[int]] = [[] for _ in runs]
    end = time.perf_counter() + limit_s
    # A slow model gets fewer runs a turn, one that is very slow a single one.
    count = _RUNS
    for turn in range(_TURNS):
        if turn and time.perf_counter() > end:
            break
        for run, samples in zip(runs, latencies_ns, strict=True):
            fresh = _turn_ns(run, count)
            samples.extend(fresh)
            affordable = limit_s * 1e9 / (_TURNS * len(runs) * max(1, min(fresh)))
            count = max(1, int(min(count, affordable)))
    return tuple(statistics.median(samples) / 1_000 for samples in latencies_ns)


def _turn_ns(run: Callable[[], object], count: int) -> list[int]:
    warm_up = min(_WARM_UP_RUNS, count)
    samples_ns = []
    for _ in range(warm_up + count):
        started_ns = time.perf_counter_ns()
        run()
        samples_ns.append(time.perf_counter_ns() - started_ns)
    return samples_ns[warm_up:]


def cpu_name() -> str:
    """The CPU's own name, and whether it multiplies int8 in one instruction (VNNI), which decides what int8 gains."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.machine()
    return f"{name}, VNNI" if "vnni" in fields.get("flags", "") else name
