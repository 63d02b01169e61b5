"""Step 8: two rollouts that decide by themselves: one is promoted, one is rolled back."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from _traffic.api_key import read_key

from inferlane_client import Request

from .stage import ExpectationError, expect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .stage import Stage

# Each takes ten seconds on a free machine; one that stands still for a while takes longer.
LIMIT_S = 180.0
CONCURRENCY = 16
ROWS = 512
_ENDED = frozenset({"promoted", "rolled_back", "failed", "paused"})
_PACE: dict[str, Any] = {"min_requests": 100, "min_time": "1s", "promote_after": 150}


async def run_rollouts(stage: Stage, url: str) -> None:
    """Show a rollout on rows on which both versions agree, and one on rows on which they do not."""
    stage.title(8, "Two rollouts that decide by themselves")
    if stage.canary is None:
        stage.say(f"{stage.model.name} has one version: nothing to roll out, skipped")
        return
    alike, apart = await _sorted_rows(stage)
    await _show(stage, url, alike, {"errors": {}, "answers": {}}, ends="promoted")
    if not apart:
        stage.say(f"{stage.baseline} and {stage.canary} answer {ROWS} rows alike: no bad rollout to show")
        return
    # What is wrong with the candidate here is that it answers otherwise; that alone would only pause a rollout.
    differs = {"errors": {}, "answers": {"then": "roll_back"}}
    await _show(stage, url, apart, differs, ends="rolled_back")


async def _sorted_rows(stage: Stage) -> tuple[list[list[float]], list[list[float]]]:
    rows = stage.draw(ROWS, seed=3)
    found = [
        await stage.client.predict(rows, model=stage.model.name, version=version)
        for version in (stage.baseline, stage.canary)
    ]
    alike: list[list[float]] = []
    apart: list[list[float]] = []
    for row, first, second in zip(rows, found[0].predictions, found[1].predictions, strict=True):
        (alike if first.get("label") == second.get("label") else apart).append(row)
    expect(bool(alike), f"{stage.baseline} and {stage.canary} agree on none of {ROWS} rows")
    return alike, apart


async def _show(stage: Stage, url: str, rows: Sequence[list[float]], checks: dict[str, Any], *, ends: str) -> None:
    await stage.set_split({stage.baseline: 1})
    body = {
        "model": stage.model.name,
        "candidate": stage.canary,
        "stable": stage.baseline,
        "steps": ["20%", "50%"],
        "each": _PACE,
        "bake": "1s",
        "checks": checks,
        "reason": "demo",
    }
    traffic = asyncio.create_task(_ask(stage, rows))
    try:
        started = await asyncio.to_thread(_call, url, "/v1/rollouts", body)
        found = await _watch(stage, url, started["id"])
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)
    expect(found["phase"] == ends, f"the rollout {found['id']} is {found['phase']}, not {ends}: {found.get('reason')}")


async def _watch(stage: Stage, url: str, rollout: str) -> dict[str, Any]:
    shown = 0
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                found: dict[str, Any] = await asyncio.to_thread(_call, url, f"/v1/rollouts/{rollout}")
                for event in found["events"][shown:]:
                    stage.say(f"{event['phase']:<12} {event.get('weight', 0):>4.0%}  {event.get('reason', '')}")
                shown = len(found["events"])
                if found["phase"] in _ENDED:
                    return found
                await asyncio.sleep(0.3)
    except TimeoutError as error:
        await asyncio.to_thread(_call, url, f"/v1/rollouts/{rollout}/abort", {"reason": "the demo waits no longer"})
        raise ExpectationError(f"the rollout {rollout} was not over within {LIMIT_S:.0f} s") from error


async def _ask(stage: Stage, rows: Sequence[list[float]]) -> None:
    """Ask without a pause, and without routing keys, so that each request is a draw of its own."""

    def requests() -> Iterator[Request]:
        number = 0
        while True:
            yield Request(rows=[rows[number % len(rows)]])
            number += 1

    answers = stage.client.predict_many(
        requests(), concurrency=CONCURRENCY, in_order=False, model=stage.model.name, timeout_s=LIMIT_S
    )
    async for _ in answers:
        pass


def _call(url: str, path: str, body: Any = None) -> Any:
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, raw, {"content-type": "application/json"})  # noqa: S310 - the server of the demo
    if key := read_key():
        request.add_header("authorization", f"Bearer {key}")
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=LIMIT_S) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ValueError) as error:
        detail = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else str(error)
        raise ExpectationError(f"{path} was not answered as asked: {detail[:500]}") from error
