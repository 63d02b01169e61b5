"""What shadow copies of a tenth of the requests cost a running stack: CPU of each process, with and without them.

One stack, and windows in turn with a split that has a shadow and with one that has none: as in `pairs`, the ratio of
two windows that follow each other says more than seconds do.
"""

import json
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.cases import SAMPLES, load_case
from benchmarks.figures import spread_of
from benchmarks.machine import this_machine
from benchmarks.measured import Machine
from benchmarks.pairs import Side, window_of
from benchmarks.systems.inferlane import serve_inferlane
from benchmarks.systems.running import Running
from benchmarks.wrk import run_wrk

MODEL = "iris"
_STABLE, _CANDIDATE, _OTHER = "v1", "v2", "v2-quantized"
_WARM_UP_S = 3
# Copies are gathered for half a second: those of a window should not be counted in the next one.
_SETTLE_S = 0.75


class Shadowing(msgspec.Struct, frozen=True, kw_only=True):
    """The windows with a shadow and those without, in the order in which they were measured."""

    machine: Machine
    share: float
    concurrency: int
    with_shadow: list[Side]
    without: list[Side]


def measure_shadowing(*, share: float, concurrency: int, seconds: int, pairs: int) -> Shadowing:
    """Load a stack with two versions of iris, in turn with and without a shadow of the second."""
    sides: dict[bool, list[Side]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = Path(folder) / "models"
        shutil.copytree(SAMPLES / MODEL, models / MODEL, ignore=shutil.ignore_patterns(_OTHER))
        case = replace(load_case(MODEL), models_dir=models)
        running = stack.enter_context(serve_inferlane(case))
        body = Path(folder) / "body.json"
        body.write_bytes(running.body(case.rows[0]))
        _set_split(running, share)
        run_wrk(running.url, body, concurrency=concurrency, seconds=_WARM_UP_S)
        for number in range(pairs):
            for has_shadow in (True, False) if number % 2 == 0 else (False, True):
                _set_split(running, share if has_shadow else 0.0)
                time.sleep(_SETTLE_S)
                sides[has_shadow].append(window_of(running, body, concurrency=concurrency, seconds=seconds))
    return Shadowing(
        machine=this_machine(), share=share, concurrency=concurrency, with_shadow=sides[True], without=sides[False]
    )


def _set_split(running: Running, share: float) -> None:
    split: dict[str, object] = {"model": MODEL, "weights": {_STABLE: 1}}
    if share:
        split["shadow"] = {"version": _CANDIDATE, "share": share}
    url = running.url.replace("/models/predict", "/traffic-split")
    request = urllib.request.Request(url, json.dumps(split).encode(), {"content-type": "application/json"})  # noqa: S310 - the stack that was started
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - as above


def ratios_of(found: Shadowing, processes: Collection[str]) -> list[float]:
    """CPU of these processes for an answer with the shadow by that without, of each pair."""
    ours, theirs = (
        [sum(side.per_1000(name) for name in processes) for side in sides]
        for sides in (found.with_shadow, found.without)
    )
    return [our / their for our, their in zip(ours, theirs, strict=True) if their]


def all_but_copies(found: Shadowing) -> list[str]:
    """The processes without the worker that computes the copies."""
    return [name for name in found.without[0].cpu_s if not name.startswith(f"worker-{MODEL}-{_CANDIDATE}")]


def shadowing_to_markdown(found: Shadowing) -> str:
    """A row for each process, one for all, and one for all but the worker that computes the copies."""
    names = list(found.without[0].cpu_s)
    rows = [(name, [name]) for name in names]
    rows += [("all", names), ("all but the worker of the copies", all_but_copies(found))]
    lines = [
        f"## A shadow of {found.share:.0%}: iris, concurrency {found.concurrency}, {len(found.without)} pairs",
        "",
        f"{found.machine.measured_at}. The ratio is the median of the pairs', the spread that of their quartiles.",
        "",
        "| process | CPU-s for 1,000 requests, with the shadow | without | ratio | spread |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, processes in rows:
        ours, theirs = (
            statistics.median(sum(side.per_1000(name) for name in processes) for side in sides)
            for sides in (found.with_shadow, found.without)
        )
        ratios = ratios_of(found, processes)
        ratio = f"{statistics.median(ratios):.3f} | {spread_of(ratios):.1%}" if ratios else " | "
        lines.append(f"| {title} | {ours:.4f} | {theirs:.4f} | {ratio} |")
    return "\n".join(lines) + "\n"
