"""Step 7: what the server itself says about each version."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from _traffic.documents import VersionMetrics
from _traffic.report import make_table

from .stage import expect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .stage import Stage

WINDOW_S = 60
# Workers report at most once a second and the windows publish after that; the rest is for a machine that stands still.
CATCH_UP_S = 30.0
POLL_S = 0.5


async def show_metrics(stage: Stage, answered: Mapping[str, int]) -> None:
    """Show the windows of the versions that answered, once they hold all of it or `CATCH_UP_S` has passed."""
    stage.title(7, f"What the server measured: GET /v1/metrics/{{version}}, over {WINDOW_S} s")
    deadline_s = time.perf_counter() + CATCH_UP_S
    table = make_table(
        stage.console, "version", "requests", "errors", "queue p50", "p99", "infer p50", "p99", "total p50", "p99",
        "CPU", "memory",
    )  # fmt: skip
    distributions = []
    for version in answered or (stage.baseline,):
        metrics = await _caught_up(stage, version, answered.get(version, 1), deadline_s)
        expect(metrics.requests > 0, f"the metrics of {version} count no request {CATCH_UP_S:.0f} s after the last one")
        table.add_row(version, f"{metrics.requests:,}", *_cells(metrics))
        distributions.append(f"{version} said {_distribution(metrics)}")
    stage.console.print(table)
    for line in distributions:
        stage.say(line)
    stage.say("times in ms; queue: from the request to its batch; CPU in cores")


async def _caught_up(stage: Stage, version: str, requests: int, deadline_s: float) -> VersionMetrics:
    while True:
        document = await stage.client.metrics(version, model=stage.model.name, window_s=WINDOW_S)
        metrics = msgspec.convert(document, VersionMetrics)
        if metrics.requests >= requests or time.perf_counter() >= deadline_s:
            return metrics
        await asyncio.sleep(POLL_S)


def _distribution(metrics: VersionMetrics) -> str:
    counts = metrics.prediction_distribution
    total = sum(counts.values())
    return ", ".join(f"{label} {count / total:.0%}" for label, count in counts.items()) if total else "nothing yet"


def _cells(metrics: VersionMetrics) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = [number(metrics.error_rate, ".1%")]
    for stage_name in ("queue_wait", "inference", "total"):
        quantiles = metrics.latency_ms.get(stage_name)
        cells += [
            number(quantiles.p50 if quantiles else None, ".2f"),
            number(quantiles.p99 if quantiles else None, ".2f"),
        ]
    memory = metrics.resources.memory_bytes
    cells += [
        number(metrics.resources.cpu_cores, ".2f"),
        number(None if memory is None else memory / 1e6, ",.0f") + (" MB" if memory is not None else ""),
    ]
    return cells
