"""The snapshot that every open page receives each second, built from what was observed. Pure."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dashboards.live.api_client import ApiModel, ApiTensor, ApiUnusable
from dashboards.live.dead_letter_tally import DeadLetterCounts
from dashboards.live.rollout_card import RolloutCard, rollout_cards
from dashboards.live.traffic import Headline, Queue, QueueRates, Signs, headline_of, router_queue, total, version_queue
from inferlane.contracts.naming import Names
from inferlane.contracts.rollout import RolloutState
from inferlane.contracts.windows import WindowReport
from inferlane.runtime.runfile import ProcessRecord

KEPT_S = 600.0


class VersionPoint(msgspec.Struct, frozen=True, array_like=True):
    """One version at one moment: finished per second, lag in records, workers, total p95 in ms (None without any)."""

    rate_per_s: float
    lag_records: int
    workers: int
    p95_ms: float | None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Every version (`model/version`) at one moment, seconds since the epoch."""

    at_s: float
    router_lag_records: int
    versions: dict[str, VersionPoint]


def point_of(models: "tuple[ModelCard, ...]", *, router_lag_records: int, at_s: float) -> Point:
    """Return the point of a snapshot."""
    return Point(
        at_s=round(at_s, 2),
        router_lag_records=router_lag_records,
        versions={
            f"{model.name}/{card.version}": VersionPoint(
                round(card.queue.leaving_per_s or 0.0, 2),
                card.queue.lag_records,
                card.report.resources.workers if card.report else 0,
                card.report.latency_ms.total.p95 if card.report else None,
            )
            for model in models
            for card in model.versions
        },
    )


class History:
    """Points of the last `KEPT_S` seconds, oldest first."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque()

    def add(self, point: Point) -> None:
        """Add the newest point and drop expired ones."""
        self._points.append(point)
        while self._points[0].at_s < point.at_s - KEPT_S:
            self._points.popleft()

    @property
    def points(self) -> tuple[Point, ...]:
        """All points, oldest first."""
        return tuple(self._points)

    def lag_before(self, ago_s: float) -> int | None:
        """Return the total lag `ago_s` seconds before the newest point; None if there is no point that old."""
        if not self._points:
            return None
        then = [point for point in self._points if point.at_s <= self._points[-1].at_s - ago_s]
        return lag_of(then[-1]) if then else None


def lag_of(point: Point) -> int:
    """Return the total lag of router and workers."""
    return point.router_lag_records + sum(version.lag_records for version in point.versions.values())


VersionKey = tuple[str, str]


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a data source. `error`: of the last read; `age_s`: the age of its values, None without any."""

    age_s: float | None = None
    error: str | None = None


class VersionCard(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its queue and its report."""

    version: str
    weight: float
    quantization: str
    size_bytes: int
    queue: Queue
    report: WindowReport | None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model and its versions; `example` is a row to try, None to make one of the inputs."""

    name: str
    description: str
    default: bool
    inputs: tuple[ApiTensor, ...]
    example: list[Any] | None
    versions: tuple[VersionCard, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests of a version ended with an error code over `FAILURES_OVER_S`."""

    model: str
    version: str
    code: str
    count: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the local stack, by the supervisor's run file."""

    name: str
    state: str
    restarts: int


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """All versions together. `error_share` is of the reports' window, None without any request."""

    router: Queue
    workers: Queue
    workers_alive: int
    error_share: float | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page, except the history before `point`."""

    at_s: float
    verdict: Headline
    api: SourceState
    broker: SourceState
    flow: Flow
    models: tuple[ModelCard, ...]
    unusable: tuple[ApiUnusable, ...]
    rollouts: tuple[RolloutCard, ...]
    failures: tuple[Failure, ...]
    letters: DeadLetterCounts
    parts: tuple[Part, ...]
    point: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What was observed at `at_s` (since the epoch); for a silent part, its last values."""

    at_s: float
    names: Names = field(default_factory=Names)
    api: SourceState = field(default_factory=SourceState)
    broker: SourceState = field(default_factory=SourceState)
    models: tuple[ApiModel, ...] = ()
    unusable: tuple[ApiUnusable, ...] = ()
    rollouts: tuple[RolloutState, ...] = ()
    # Bodies to try, by model.
    examples: Mapping[str, list[Any]] = field(default_factory=dict)
    reports: Mapping[VersionKey, WindowReport] = field(default_factory=dict)
    failures: Mapping[VersionKey, Mapping[str, int]] = field(default_factory=dict)
    letters: DeadLetterCounts = field(default_factory=DeadLetterCounts)
    processes: tuple[ProcessRecord, ...] = ()


def build_snapshot(seen: Sighting, *, rates: QueueRates, history: History) -> Snapshot:
    """Build a snapshot from an observation, and add its point to the history."""
    # The default model first: it is what most requests are about.
    ordered = sorted(seen.models, key=lambda model: not model.default)
    models = tuple(_model_card(model, seen, rates) for model in ordered)
    router = rates.queue(router_queue(seen.names))
    flow = _flow(router, models)
    point = point_of(models, router_lag_records=router.lag_records, at_s=seen.at_s)
    history.add(point)
    return Snapshot(
        at_s=seen.at_s,
        verdict=headline_of(_signs(seen, flow, models, history)),
        api=seen.api,
        broker=seen.broker,
        flow=flow,
        models=models,
        unusable=seen.unusable,
        rollouts=rollout_cards(seen.rollouts, now_s=seen.at_s),
        failures=_failures(seen),
        letters=seen.letters,
        parts=tuple(Part(name=entry.name, state=entry.state, restarts=entry.restarts) for entry in seen.processes),
        point=point,
    )


def _model_card(model: ApiModel, seen: Sighting, rates: QueueRates) -> ModelCard:
    return ModelCard(
        name=model.name,
        description=model.description,
        default=model.default,
        inputs=model.versions[0].inputs if model.versions else (),
        example=seen.examples.get(model.name),
        versions=tuple(
            VersionCard(
                version=version.version,
                weight=version.weight,
                quantization=version.quantization,
                size_bytes=version.size_bytes,
                queue=rates.queue(version_queue(seen.names, model.name, version.version)),
                report=seen.reports.get((model.name, version.version)),
            )
            for version in model.versions
        ),
    )


def _flow(router: Queue, models: tuple[ModelCard, ...]) -> Flow:
    cards = [card for model in models for card in model.versions]
    reports = [card.report for card in cards if card.report]
    requests = sum(report.requests for report in reports)
    return Flow(
        router=router,
        workers=total(card.queue for card in cards),
        workers_alive=sum(report.resources.workers for report in reports),
        error_share=sum((report.error_rate or 0.0) * report.requests for report in reports) / requests
        if requests
        else None,
    )


def _signs(seen: Sighting, flow: Flow, models: tuple[ModelCard, ...], history: History) -> Signs:
    cards = [(f"{model.name} {card.version}", card) for model in models for card in model.versions]
    return Signs(
        api_error=seen.api.error,
        broker_error=seen.broker.error,
        finished_per_s=flow.workers.leaving_per_s or 0.0,
        lag_records=flow.router.lag_records + flow.workers.lag_records,
        lag_records_before=history.lag_before(Signs.GROWTH_OVER_S),
        without_workers=tuple(
            name
            for name, card in cards
            if card.queue.lag_records and not (card.report and card.report.resources.workers)
        ),
        error_shares={name: card.report.error_rate for name, card in cards if card.report and card.report.error_rate},
        error_share=flow.error_share,
        slowest_p95_ms=max((card.report.latency_ms.total.p95 or 0.0 for _, card in cards if card.report), default=0.0),
        unusable=tuple(
            f"{entry.model}{f' {entry.version}' if entry.version else ''}: {entry.reason}" for entry in seen.unusable
        ),
        restarting=tuple(entry.name for entry in seen.processes if entry.state == "waiting"),
    )


def _failures(seen: Sighting) -> tuple[Failure, ...]:
    counted = Counter(
        {
            (model, version, code): count
            for (model, version), codes in seen.failures.items()
            for code, count in codes.items()
        }
    )
    return tuple(
        Failure(model=model, version=version, code=code, count=count)
        for (model, version, code), count in counted.most_common()
    )
