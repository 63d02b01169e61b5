"""The open loop: requests at a constant rate, whatever the system does, and how many are answered in the end."""

import time

import aiohttp
import msgspec

from benchmarks.cases import Case
from benchmarks.stalls import StallGauge
from benchmarks.systems.running import Running
from scripts._traffic.arrivals import OpenSchedule, send_open
from scripts._traffic.statistics import Answer, Tally

_HEADERS = {"content-type": "application/json"}


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one burst. `answered` had 200 within the patience; latencies count from when each was due."""

    name: str
    rate_per_s: float
    duration_s: float
    patience_s: float
    sent: int
    answered: int
    statuses: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    available: float

    @property
    def answered_share(self) -> float:
        """Of what was sent, the share that was answered."""
        return self.answered / self.sent if self.sent else 0.0


async def send_burst(running: Running, case: Case, *, rate_per_s: float, duration_s: float, patience_s: float) -> Burst:
    """Send at that rate for so long; a request without an answer after `patience_s` counts as lost."""
    schedule = OpenSchedule(rate_per_s=rate_per_s, duration_s=duration_s)
    tally = Tally()
    bodies = [running.body(row) for row in case.rows]
    timeout = aiohttp.ClientTimeout(total=patience_s)
    started_s = time.perf_counter()
    with StallGauge() as gauge:
        # No limit of connections: a request that waits for one would wait inside the client.
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def send(index: int, due_s: float) -> None:
                sent_s = time.perf_counter()
                tally.count_sent(due_s=due_s, sent_s=sent_s)
                status = await _post(session, running.url, bodies[index % len(bodies)])
                tally.count_answer(Answer(status=status), due_s=due_s, sent_s=sent_s, done_s=time.perf_counter())

            await send_open(schedule, send, max_outstanding=schedule.count, on_overflow=tally.count_overflow)
        elapsed_s = time.perf_counter() - started_s
        available = 1.0 - gauge.stalled_s / elapsed_s
    summary = tally.summarize(elapsed_s=elapsed_s)
    return Burst(
        name=running.name,
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        patience_s=patience_s,
        sent=summary.sent,
        answered=summary.latency.samples if summary.latency else 0,
        statuses=summary.statuses,
        p50_ms=summary.latency.p50_ms if summary.latency else None,
        p99_ms=summary.latency.p99_ms if summary.latency else None,
        available=available,
    )


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """The HTTP status, or the name of what happened instead."""
    try:
        async with session.post(url, data=body, headers=_HEADERS) as response:
            await response.read()
            return str(response.status)
    except TimeoutError:
        return "timeout"
    except (aiohttp.ClientError, OSError) as error:
        return type(error).__name__


def bursts_to_markdown(bursts: list[Burst]) -> str:
    """One row a system."""
    lines = ["| system | rate/s | sent | answered | p50 ms | p99 ms | outcomes | available |", "|---|" + "---:|" * 7]
    for burst in bursts:
        outcomes = ", ".join(f"{status}: {count}" for status, count in sorted(burst.statuses.items()))
        latency = [f"{value:,.0f}" if value is not None else "" for value in (burst.p50_ms, burst.p99_ms)]
        cells = (
            burst.name,
            f"{burst.rate_per_s:,.0f}",
            f"{burst.sent:,}",
            f"{burst.answered_share:.1%}",
            *latency,
            outcomes,
            f"{burst.available:.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
