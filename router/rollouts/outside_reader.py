"""Read what a rollout is judged by besides its outcomes: the configured Prometheus, and feedback on both versions.

A rollout names a query and never a server: only the Prometheus of `INFERLANE_PROMETHEUS_URL` is asked, and redirects
are not followed. Reading runs beside the decisions, which use the last reading; an old reading counts as none.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import structlog

from inferlane.contracts.outcome_token import day_of
from inferlane.contracts.rollout import Check, RolloutState
from inferlane.errors import UNDECODABLE, InferlaneError, clipped
from inferlane.runtime.http.answer_body import read_up_to
from inferlane.runtime.metrics.router_metrics import ROLLOUT_UNREAD
from inferlane.runtime.redis.feedback_store import QUALITY, REWARD, FeedbackStore
from router.rollouts.outside_checks import FeedbackReading, MetricReading, Reading, feedback_reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import RolloutSettings

log = structlog.get_logger(__name__)

_READ_S = 5.0
# A value that was read longer ago is too old to use.
_OLD_S = 60.0
_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 1024 * 1024
_TOO_LARGE = MetricReading(missing="the answer of Prometheus is larger than 1 MiB; the query must have one series")
# The most days of feedback that are compared; of an older rollout, the newest days.
_MAX_DAYS = 31
_KINDS = {Check.QUALITY: QUALITY, Check.REWARD: REWARD}


class PrometheusReader:
    """Asks one Prometheus for the value of a query. Used from one event loop."""

    def __init__(self, rollouts: "RolloutSettings") -> None:
        self._url = rollouts.prometheus_url.rstrip("/")
        token = rollouts.prometheus_token
        self._headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}

    async def read(self, query: str) -> MetricReading:
        """Return the value of an instant query, or why there is none; never raises for what the server does."""
        if not self._url:
            return MetricReading(missing="INFERLANE_PROMETHEUS_URL is not set where the router runs")
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False, headers=self._headers) as session,
                session.post(f"{self._url}/api/v1/query", data={"query": query}, allow_redirects=False) as answer,
            ):
                raw = await read_up_to(answer, _MAX_ANSWER_BYTES)
                return _TOO_LARGE if raw is None else _reading_of(answer.status, raw)
        except TimeoutError:
            return MetricReading(missing=f"Prometheus did not answer within {_TIMEOUT_S:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return MetricReading(missing=f"Prometheus cannot be asked: {clipped(f'{type(error).__name__}: {error}')}")


def _reading_of(status: int, raw: bytes) -> MetricReading:
    try:
        answer: Any = msgspec.json.decode(raw)
        if answer["status"] != "success":
            return MetricReading(missing=f"Prometheus refused the query: {clipped(str(answer.get('error')))}")
        kind, found = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "vector" and len(found) != 1:
            says = "the query has no series" if not found else f"the query has {len(found):,} series, it must have one"
            return MetricReading(missing=says)
        value = float(found[0]["value"][1] if kind == "vector" else found[1])
    except (*UNDECODABLE, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError):
        return MetricReading(missing=f"what answers at INFERLANE_PROMETHEUS_URL is no Prometheus: status {status}")
    if not math.isfinite(value):
        return MetricReading(missing=f"the value of the query is {value}")
    return MetricReading(value=value)


class OutsideReader:
    """The last readings of each rollout that has such checks. Used from one event loop."""

    def __init__(self, rollouts: "RolloutSettings", *, feedback: FeedbackStore, clock: "Clock") -> None:
        self._prometheus = PrometheusReader(rollouts)
        self._feedback = feedback
        self._clock = clock
        self._held: dict[tuple[str, Check], tuple[float, Reading]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._asked_s: dict[str, float] = {}
        # An alert needs its series before the first failure.
        for check in (Check.PROMETHEUS, *_KINDS):
            ROLLOUT_UNREAD.labels(check)

    def of(self, state: RolloutState) -> "Mapping[Check, Reading]":
        """Return what was read last for this rollout, by check; begins to read anew where that is some seconds ago."""
        checks = [check for check in state.spec.checks if check is Check.PROMETHEUS or check in _KINDS]
        now_s = self._clock.monotonic_s()
        running = self._reading.get(state.id)
        is_due = now_s - self._asked_s.get(state.id, -math.inf) >= _READ_S
        if checks and is_due and (running is None or running.done()):
            self._asked_s[state.id] = now_s
            self._reading[state.id] = asyncio.create_task(self.refresh(state), name="rollout_readings")
        return {check: self._fresh(state, check, now_s) for check in checks}

    def _fresh(self, state: RolloutState, check: Check, now_s: float) -> Reading:
        read_s, reading = self._held.get((state.id, check), (now_s, MetricReading()))
        if now_s - read_s <= _OLD_S:
            return reading
        return MetricReading(missing=f"it was read {now_s - read_s:.0f} s ago and not since")

    async def refresh(self, state: RolloutState) -> None:
        """Read everything that this rollout is judged by."""
        for check, options in state.spec.checks.items():
            try:
                if check is Check.PROMETHEUS:
                    reading: Reading = await self._prometheus.read(options.query)
                elif check in _KINDS:
                    reading = await self._read_feedback(state, _KINDS[check])
                else:
                    continue
            except InferlaneError as error:
                log.warning("rollout_reading_failed", rollout=state.id, check=check, error=str(error))
                ROLLOUT_UNREAD.labels(check).inc()
                continue
            if isinstance(reading, MetricReading) and reading.value is None:
                log.warning("rollout_reading_failed", rollout=state.id, check=check, error=reading.missing)
                ROLLOUT_UNREAD.labels(check).inc()
            self._held[state.id, check] = (self._clock.monotonic_s(), reading)

    async def _read_feedback(self, state: RolloutState, kind: str) -> FeedbackReading:
        spec, last = state.spec, day_of(self._clock.now_s())
        days = range(max(day_of(state.created_s), last - _MAX_DAYS + 1), last + 1)
        candidate = await self._feedback.by_day(spec.model, spec.candidate, kind, days)
        stable = await self._feedback.by_day(spec.model, spec.stable, kind, days)
        return feedback_reading(candidate, stable)

    def forget(self, state: RolloutState) -> None:
        """Forget a rollout on which nobody decides here."""
        self._asked_s.pop(state.id, None)
        self._held = {key: held for key, held in self._held.items() if key[0] != state.id}
        task = self._reading.pop(state.id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop reading."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
