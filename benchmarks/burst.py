"""The open loop: requests at a constant rate, whatever the system does, and how many are answered in the end."""

import time
from array import array

import aiohttp
import msgspec

from benchmarks.cases import Case
from benchmarks.stalls import StallGauge
from benchmarks.systems.running import Running
from scripts._traffic.arrivals import OpenSchedule, send_open
from scripts._traffic.statistics import ANSWERED, Answer, Tally, summarize_latency

_HEADERS = {"content-type": "application/json"}
_REFUSED = ("429", "503")
# The word for what became worthless comes when it just did, and is worth hearing.
_LAST_WORD_S = 2.0


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one burst. `answered` had 200 within the patience; latencies of 200 count from when each was due.

    `refused` had 429 or 503, after `refusal_p99_ms` and at most `refusal_max_ms` from when it was sent; what was not
    refused was accepted. A system that lets a request say how long it may take is told the patience.
    """

    name: str
    rate_per_s: float
    duration_s: float
    patience_s: float
    sent: int
    refused: int
    answered: int
    statuses: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    refusal_p99_ms: float | None
    refusal_max_ms: float | None
    available: float

    @property
    def answered_share(self) -> float:
        """Of what was sent, the share that was answered."""
        return self.answered / self.sent if self.sent else 0.0

    @property
    def kept_share(self) -> float:
        """Of what was accepted, the share that was answered."""
        accepted = self.sent - self.refused
        return self.answered / accepted if accepted else 0.0


async def send_burst(running: Running, case: Case, *, rate_per_s: float, duration_s: float, patience_s: float) -> Burst:
    """Send at that rate for so long; a request without an answer after `patience_s` counts as lost."""
    schedule = OpenSchedule(rate_per_s=rate_per_s, duration_s=duration_s)
    tally = Tally()
    refusals_s = array("d")
    bodies = [running.body(row, within_s=patience_s) for row in case.rows]
    timeout = aiohttp.ClientTimeout(total=patience_s + _LAST_WORD_S)
    started_s = time.perf_counter()
    with StallGauge() as gauge:
        # No limit of connections: a request that waits for one would wait inside the client.
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def send(index: int, due_s: float) -> None:
                sent_s = time.perf_counter()
                tally.count_sent(due_s=due_s, sent_s=sent_s)
                status = await _post(session, running.url, bodies[index % len(bodies)])
                done_s = time.perf_counter()
                if status == ANSWERED and done_s - sent_s > patience_s:
                    status = "late"
                tally.count_answer(Answer(status=status), due_s=due_s, sent_s=sent_s, done_s=done_s)
                if status in _REFUSED:
                    refusals_s.append(done_s - sent_s)

            await send_open(schedule, send, max_outstanding=schedule.count, on_overflow=tally.count_overflow)
        elapsed_s = time.perf_counter() - started_s
        available = 1.0 - gauge.stalled_s / elapsed_s
    summary = tally.summarize(elapsed_s=elapsed_s)
    refusals = summarize_latency(refusals_s)
    return Burst(
        name=running.name,
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        patience_s=patience_s,
        sent=summary.sent,
        refused=len(refusals_s),
        answered=summary.statuses.get(ANSWERED, 0),
        statuses=summary.statuses,
        p50_ms=summary.latency.p50_ms if summary.latency else None,
        p99_ms=summary.latency.p99_ms if summary.latency else None,
        refusal_p99_ms=refusals.p99_ms if refusals else None,
        refusal_max_ms=refusals.max_ms if refusals else None,
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
    """One row a system; refusals as p99 and slowest."""
    lines = [
        "| system | rate/s | sent | answered | refused | kept | p50 ms | p99 ms | refusals ms | outcomes | available |",
        "|---|" + "---:|" * 10,
    ]
    for burst in bursts:
        outcomes = ", ".join(f"{status}: {count}" for status, count in sorted(burst.statuses.items()))
        cells = (
            burst.name,
            f"{burst.rate_per_s:,.0f}",
            f"{burst.sent:,}",
            f"{burst.answered_share:.1%}",
            f"{burst.refused:,}",
            f"{burst.kept_share:.1%}",
            _ms(burst.p50_ms),
            _ms(burst.p99_ms),
            f"{_ms(burst.refusal_p99_ms)}, {_ms(burst.refusal_max_ms)}" if burst.refused else "",
            outcomes,
            f"{burst.available:.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ms(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else ""
