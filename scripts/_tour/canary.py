"""Step 6: a canary at 10 %, then at 50 %, with the same routing keys."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _traffic.report import live_progress, make_table
from _traffic.shares import compare_routes, compare_shares
from _traffic.statistics import ANSWERED, Answer, Tally

from inferlane_client import CallError, Request

from .stage import expect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from _traffic.statistics import Summary

    from inferlane_client import TrafficSplit

    from .stage import Stage

CONCURRENCY = 32
# Seconds at most for a phase that a machine of two free cores ends in two.
LIMIT_S = 180.0
# Seconds that one request may take: what a busy machine needs when it stands still for a while.
WAIT_S = 50.0
# Different instances among the requests.
ROWS = 64


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
    split = await stage.set_split(weights)
    tally = Tally()
    routes: dict[str, str] = {}
    start_s = time.perf_counter()
    async with live_progress(tally, total=stage.requests):
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                await _send(stage, tally, routes)
    summary = tally.summarize(elapsed_s=time.perf_counter() - start_s)
    answered = sum(summary.statuses.values())
    expect(answered == stage.requests, f"only {answered:,} requests were answered in {LIMIT_S:.0f} s")
    expect(summary.all_succeeded, f"not every answer was a prediction: {summary.statuses}, codes {summary.codes}")
    _show_shares(stage, summary, split)
    return Phase(routes=routes, summary=summary)


async def _send(stage: Stage, tally: Tally, routes: dict[str, str]) -> None:
    """Send a request for each routing key; what becomes of it goes to the tally, its version to `routes`."""
    sent_s: list[float] = []
    rows = stage.draw(ROWS, seed=0)

    def requests() -> Iterator[Request]:
        for number in range(stage.requests):
            sent_s.append(time.perf_counter())
            tally.count_sent(due_s=sent_s[-1], sent_s=sent_s[-1])
            yield Request(rows=[rows[number % ROWS]], routing_key=_key(number))

    answers = stage.client.predict_many(
        requests(), concurrency=CONCURRENCY, in_order=False, model=stage.model.name, timeout_s=WAIT_S
    )
    async for answer in answers:
        outcome = answer.outcome
        if isinstance(outcome, CallError):
            counted = Answer(status=str(outcome.status or outcome.code), code=outcome.code)
        else:
            counted = Answer(status=ANSWERED, version=outcome.version)
            routes[_key(answer.index)] = outcome.version
        due_s = sent_s[answer.index]
        tally.count_answer(counted, due_s=due_s, sent_s=due_s, done_s=time.perf_counter())


def _key(number: int) -> str:
    return f"user-{number}"


def _show_shares(stage: Stage, summary: Summary, split: TrafficSplit) -> None:
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
