"""Observe every part of a deployment and stream the newest snapshot to all open pages."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from dashboards.live.dead_letter_tally import DeadLetterCounts
from dashboards.live.snapshot import History, Point, Sighting, Snapshot, SourceState, VersionKey, build_snapshot
from dashboards.live.traffic import QueueRates, dead_letter_queue, subscriptions
from inferlane.errors import InferlaneError, OverloadedError, UnavailableError
from inferlane.runtime.service import Background

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashboards.live.api_client import ApiClient, ApiModel, ApiUnusable
    from dashboards.live.dead_letter_tally import DeadLetterTally
    from inferlane.contracts.naming import Names
    from inferlane.contracts.rollout import RolloutState
    from inferlane.contracts.windows import WindowReport
    from inferlane.runtime.kafka.lag import BacklogReader
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.runfile import RunFile

log = structlog.get_logger(__name__)

# What the cards speak of. Shorter jumps with each batch, longer hides that something changed just now.
WINDOW_S = 60.0
FAILURES_OVER_S = 300.0
# The longer window costs the API a merge of many slots, and failures are no less true a few seconds later.
_FAILURES_EVERY_S = 10.0
_BROKER_WITHIN_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a deployment that are observed."""

    api: "ApiClient"
    backlog: "BacklogReader"
    letters: "DeadLetterTally"
    run_file: "RunFile"
    names: "Names"


class DeploymentObserver:
    """Take one snapshot per call, one call at a time; a silent part delays it by a few seconds at most."""

    def __init__(self, parts: Parts, *, clock: "Clock") -> None:
        self._parts = parts
        self._clock = clock
        self._rates = QueueRates()
        self._history = History()
        self._models: tuple[ApiModel, ...] = ()
        self._unusable: tuple[ApiUnusable, ...] = ()
        self._rollouts: tuple[RolloutState, ...] = ()
        self._examples: dict[str, list[Any]] | None = None
        self._reports: Mapping[VersionKey, WindowReport] = {}
        self._failures: Mapping[VersionKey, Mapping[str, int]] = {}
        self._failures_at_s = -float("inf")
        self._letters = DeadLetterCounts()
        self._api_at_s: float | None = None
        self._broker_at_s: float | None = None

    @property
    def history(self) -> tuple[Point, ...]:
        """The points of recent snapshots."""
        return self._history.points

    async def look(self, *, is_watched: bool) -> Snapshot:
        """Observe every part once; the snapshot names the parts that do not answer.

        Unless it `is_watched`, examples and failures are not asked for: what is kept for the charts has neither.
        """
        api_error, broker_error = await asyncio.gather(_said(self._ask_api(is_watched)), _said(self._ask_broker()))
        now_s = self._clock.monotonic_s()
        run = self._parts.run_file.read()
        seen = Sighting(
            at_s=self._clock.now_s(),
            names=self._parts.names,
            api=SourceState(age_s=_age(self._api_at_s, now_s), error=api_error),
            broker=SourceState(age_s=_age(self._broker_at_s, now_s), error=broker_error),
            models=self._models,
            unusable=self._unusable,
            rollouts=self._rollouts,
            examples=self._examples or {},
            reports=self._reports,
            failures=self._failures,
            letters=self._letters,
            processes=run.processes if run and run.is_running else (),
        )
        return build_snapshot(seen, rates=self._rates, history=self._history)

    async def _ask_api(self, is_watched: bool) -> None:
        api = self._parts.api
        listed = await api.models()
        self._models, self._unusable = listed.models, listed.unusable
        self._rollouts = await api.rollouts()
        if is_watched and self._examples is None:
            self._examples = await self._ask_examples()
        self._reports = await self._ask_reports(WINDOW_S)
        now_s = self._clock.monotonic_s()
        if is_watched and now_s - self._failures_at_s >= _FAILURES_EVERY_S:
            reports = await self._ask_reports(FAILURES_OVER_S)
            self._failures = {key: report.failures for key, report in reports.items()}
            self._failures_at_s = now_s
        self._api_at_s = self._clock.monotonic_s()

    async def _ask_reports(self, window_s: float) -> "Mapping[VersionKey, WindowReport]":
        keys = [(model.name, version.version) for model in self._models for version in model.versions]
        reports = await asyncio.gather(*(self._parts.api.report(*key, window_s=window_s) for key in keys))
        return dict(zip(keys, reports, strict=True))

    async def _ask_examples(self) -> dict[str, list[Any]]:
        """Return the first documented example of each model; without one, the page makes up its own."""
        try:
            examples = await self._parts.api.examples()
        except UnavailableError as error:
            log.warning("no_examples", error=str(error))
            return {}
        default = next((model.name for model in self._models if model.default), "")
        return {example.model or default: example.instances for example in reversed(examples)}

    async def _ask_broker(self) -> None:
        try:
            async with asyncio.timeout(_BROKER_WITHIN_S):
                positions = await self._parts.backlog.read(subscriptions(self._parts.names, self._models))
                self._rates.note(positions, at_s=self._clock.monotonic_s())
                letters = dead_letter_queue(self._parts.names)
                if letters in positions:
                    self._letters = await self._parts.letters.look(positions[letters])
        except TimeoutError as error:
            raise UnavailableError(f"the broker did not answer within {_BROKER_WITHIN_S:g} s") from error
        self._broker_at_s = self._clock.monotonic_s()


async def _said(asking: Any) -> str | None:
    """Wait and return the error's message, or None."""
    try:
        await asking
    except InferlaneError as error:
        return str(error)
    return None


def _age(at_s: float | None, now_s: float) -> float | None:
    return None if at_s is None else round(max(0.0, now_s - at_s), 1)


_WATCHED_EVERY_S = 1.0
# Without viewers the charts still get a point now and then, so that a page shows what was before it was opened. More
# often costs an idle machine, less often hides a burst.
_UNWATCHED_EVERY_S = 30.0
# A browser keeps at most six connections to a server, so this is many people, or a script that forgets to close.
_MAX_VIEWERS = 100

_encode = msgspec.json.Encoder().encode


class Look(Protocol):
    """Takes a snapshot: `DeploymentObserver.look`."""

    async def __call__(self, *, is_watched: bool) -> Snapshot: ...


class SnapshotFeed:
    """Take snapshots and send the newest to every viewer as an event of `text/event-stream`."""

    def __init__(self, look: Look, history: Callable[[], Sequence[Point]]) -> None:
        self._look = look
        self._history = history
        self._event = b""
        self._number = 0
        self._changed = asyncio.Condition()
        self._viewers = 0
        self._came = asyncio.Event()
        self._background = Background(self._run, name="feed")
        self._closed = False

    def start(self) -> None:
        """Start taking snapshots."""
        self._background.start()

    @property
    def is_running(self) -> bool:
        """Whether snapshots are still taken."""
        return self._background.is_running

    async def close(self) -> None:
        """Stop taking snapshots and end every stream."""
        await self._background.close()
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def refuse_if_full(self) -> None:
        """Return if one more page may be opened.

        Raises:
            OverloadedError: too many are.
        """
        if self._viewers >= _MAX_VIEWERS:
            raise OverloadedError(f"{self._viewers} pages are open, the limit is {_MAX_VIEWERS}; close some")

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of one page: the history, then each new snapshot. A page that reads slowly misses some."""
        self._viewers += 1
        self._came.set()
        # The newest may be half a minute old: the next is on its way.
        seen = self._number
        try:
            # After this many milliseconds without an answer the browser tries again by itself.
            yield b"retry: 1000\n" + _event("history", _encode(self._history()))
            while await self._is_newer(seen):
                seen = self._number
                yield self._event
        finally:
            self._viewers -= 1

    async def _is_newer(self, seen: int) -> bool:
        """Wait for a snapshot after the one numbered `seen`; False once there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._number > seen)
        return not self._closed

    async def _run(self) -> None:
        while True:
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            try:
                snapshot = await self._look(is_watched=self._viewers > 0)
            except Exception:
                # One snapshot that cannot be made must not end the page for everybody; the next may be well.
                log.exception("snapshot_failed")
            else:
                async with self._changed:
                    self._event = _event("snapshot", _encode(snapshot))
                    self._number += 1
                    self._changed.notify_all()
            await self._pause(started_s)

    async def _pause(self, started_s: float) -> None:
        """Wait until the next snapshot is due, or the first viewer arrives."""
        loop = asyncio.get_running_loop()
        if not self._viewers:
            self._came.clear()
            try:
                async with asyncio.timeout_at(started_s + _UNWATCHED_EVERY_S):
                    await self._came.wait()
            except TimeoutError:
                return
        else:
            await asyncio.sleep(started_s + _WATCHED_EVERY_S - loop.time())


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
