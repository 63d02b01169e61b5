"""Step 6: a canary at 10 %, then at 50 %, with the same routing keys."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _traffic.arrivals import ClosedLimit, send_closed
from _traffic.report import live_progress, make_table
from _traffic.sender import Sender
from _traffic.shares import compare_routes, compare_shares
from _traffic.statistics import Tally
from _traffic.workload import Target, Workload

from .stage import expect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _traffic.documents import Split
    from _traffic.statistics import Summary

    from .stage import Stage

CONCURRENCY = 32
# Seconds at most for a phase that a machine of two free cores ends in two.
LIMIT_S = 180.0
# Seconds that one request may take: what a busy machine needs when it stands still for a while.
WAIT_S = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One set of weights: what they were and which version answered each routing key."""

    routes: Mapping[str, str]
    summary: Summary


async def run_canary(stage: Stage) -> dict[str, int]:
    """Show both phases and return how many requests each version answered."""
    if stage.canary is None:
        stage.title(6, "A canary")
        stage.say(f"{stage.model.name} has one version: nothing to split, skipped")
        return {}
    text = f"A canary: {stage.requests:,} routing keys, {stage.canary} at 10 %, then the same keys at 50 %"
    stage.title(6, text)
    small = await _send_phase(stage, {stage.baseline: 90, stage.canary: 10})
    large = await _send_phase(stage, {stage.baseline: 50, stage.canary: 50})
    moves = compare_routes(small.routes, large.routes, raised=stage.canary)
    total = len(small.routes)
    stage.say(
        f"{moves.kept:,} of {total:,} keys kept their version; {moves.joined:,} moved to {stage.canary}; "
        f"{moves.left:,} moved any other way"
    )
    expect(
        moves.left == 0,
        f"{moves.left} routing keys left {stage.canary} or moved elsewhere although its weight was raised",
    )
    answered = dict(small.summary.versions)
    for version, count in large.summary.versions.items():
        answered[version] = answered.get(version, 0) + count
    return answered


async def _send_phase(stage: Stage, weights: Mapping[str, float]) -> Phase:
    split: Split = await stage.api.set_split(stage.model.name, weights)
    tally = Tally()
    workload = Workload(
        Target(model=stage.model.name, timeout_s=WAIT_S),
        features=stage.model.versions[0].features,
        rows=1,
        routing_keys=stage.requests,
        seed=0,
    )
    sender = Sender(stage.api, workload, tally)
    start_s = time.perf_counter()
    async with live_progress(tally, total=stage.requests):
        limit = ClosedLimit(requests=stage.requests, duration_s=LIMIT_S, concurrency=CONCURRENCY)
        await send_closed(limit, sender)
    summary = tally.summarize(elapsed_s=time.perf_counter() - start_s)
    expect(summary.sent == stage.requests, f"only {summary.sent:,} requests were answered in {LIMIT_S:.0f} s")
    expect(summary.all_succeeded, f"not every answer was 200: {summary.statuses}, codes {summary.codes}")
    _show_shares(stage, summary, split)
    return Phase(routes=sender.routes, summary=summary)


def _show_shares(stage: Stage, summary: Summary, split: Split) -> None:
    latency = summary.latency
    speed = f"{summary.answered_per_s:,.0f} answers/s" + (f", p99 {latency.p99_ms:.1f} ms" if latency else "")
    table = make_table(stage.console, speed, "weight", "answers", "observed share", "tolerance")
    shares = compare_shares(split.weights, summary.versions)
    for share in shares:
        table.add_row(
            share.version,
            f"{share.weight:.1%}",
            f"{share.count:,}",
            f"{share.observed:.2%}",
            f"± {share.tolerance:.2%}",
        )
    stage.console.print(table)
    for share in shares:
        expect(
            share.is_as_expected,
            f"{share.version} has a weight of {share.weight:.1%} but answered {share.observed:.2%} of {share.total:,}: "
            f"more than four standard deviations ({share.tolerance:.2%}) off",
        )
