"""CPU time and memory of process trees."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds (user and system) since each process began, and resident bytes now."""

    cpu_s: float = 0.0
    rss_bytes: int = 0


def usage_of(roots: Iterable[int], *, without: Iterable[int] = ()) -> Usage:
    """What the trees under these pids use together; the trees under `without` are left out."""
    left_out = {process.pid for process in _trees(without)}
    cpu_s, rss_bytes = 0.0, 0
    for process in _trees(roots):
        if process.pid not in left_out:
            with suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += process.memory_info().rss
    return Usage(cpu_s=cpu_s, rss_bytes=rss_bytes)


def cpu_by_process(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by name, each of its tree without the trees in it that have a name of their own."""
    found = {}
    for name, pid in pids.items():
        below = {process.pid for process in _trees([pid])} - {pid}
        found[name] = usage_of([pid], without=below.intersection(pids.values())).cpu_s
    return found


def _trees(roots: Iterable[int]) -> Iterator[psutil.Process]:
    seen: set[int] = set()
    for pid in roots:
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                if process.pid not in seen:
                    seen.add(process.pid)
                    yield process
