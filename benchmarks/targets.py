"""Each target beside what was measured, from the results that are kept. A result that is not there is not met."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from benchmarks.bulk import ALONE, ROWS_A_RECORD, WORKER, Bulk
from benchmarks.burst import Burst
from benchmarks.cost import Cost
from benchmarks.figures import Figure, per_thousand
from benchmarks.hops import Hops
from benchmarks.idle import Idle
from benchmarks.measured import Comparison
from benchmarks.routing import WAYS, Routing
from benchmarks.state import NOTHING, SUMMARIES, State
from benchmarks.systems.deployed import SERVING
from benchmarks.systems.running import NAME, NAME_ON_APACHE

if TYPE_CHECKING:
    from benchmarks.backlog import Drain

_T = TypeVar("_T")
_OURS = {NAME: "embedded", NAME_ON_APACHE: "on Apache Kafka"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line: what was wanted, what was measured, and whether that is enough."""

    what: str
    wanted: str
    measured: str
    is_met: bool


def read_targets(results: Path) -> list[Target]:
    """Every target, by the files in `results`."""
    return [
        *_iris(results),
        *_mlp(results),
        *_bulk(results),
        *_router(results),
        *_cost(results),
        *_burst(results),
    ]


def targets_to_markdown(targets: list[Target]) -> str:
    """One table."""
    lines = ["| what | target | measured | met |", "|---|---|---|---|"]
    lines += [
        f"| {one.what} | {one.wanted} | {one.measured} | {'yes' if one.is_met else '**no**'} |" for one in targets
    ]
    return "\n".join(lines) + "\n"


def _read(path: Path, kind: type[_T]) -> _T | None:
    return msgspec.json.decode(path.read_bytes(), type=kind) if path.is_file() else None


def _absent(what: str, wanted: str) -> Target:
    return Target(what=what, wanted=wanted, measured="not measured", is_met=False)


def _bound(
    what: str, value: float | None, shown: str, *, least: float | None = None, most: float | None = None, unit: str = ""
) -> Target:
    """A target of one number; `shown` is how it is written where there is one."""
    wanted = f"≥ {least:,g}{unit}" if least is not None else f"≤ {most:,g}{unit}"
    if value is None:
        return _absent(what, wanted)
    is_met = (least is None or value >= least) and (most is None or value <= most)
    return Target(what=what, wanted=wanted, measured=shown, is_met=is_met)


def _figures(comparison: Comparison | None, concurrency: int) -> dict[str, Figure]:
    systems = comparison.systems if comparison else ()
    return {one.name: one.figures[concurrency] for one in systems if concurrency in one.figures}


def _ratio(figures: dict[str, Figure], peer: str, *, what: str, least: float) -> Target:
    """The rate of each Inferlane by the peer's; the better one counts."""
    wanted = f"≥ {least:g}x"
    theirs = figures[peer].running_per_s if peer in figures else 0.0
    ratios = {
        title: figures[name].running_per_s / theirs for name, title in _OURS.items() if name in figures and theirs
    }
    if not ratios:
        return _absent(what, wanted)
    measured = ", ".join(f"{ratio:.2f}x {title}" for title, ratio in ratios.items())
    return Target(what=what, wanted=wanted, measured=measured, is_met=max(ratios.values()) >= least)


def _iris(results: Path) -> Iterator[Target]:
    comparison = _read(results / "iris.json", Comparison)
    wanted = {
        64: {"mlserver": 2.2, "taskiq_redis": 4.0, "faststream_kafka": 1.2, "fastapi_onnx": 1.2},
        256: {"mlserver": 3.0, "faststream_kafka": 2.0},
    }
    titles = {one.name: one.title for one in comparison.systems} if comparison else {}
    for concurrency, peers in wanted.items():
        for peer, least in peers.items():
            what = f"iris, concurrency {concurrency}, beside {titles.get(peer, peer)}"
            yield _ratio(_figures(comparison, concurrency), peer, what=what, least=least)
    figures = _figures(comparison, 64)
    cpu = {title: figures[name].own_cpu_s_per_1000 for name, title in _OURS.items() if name in figures}
    what = "iris, concurrency 64, CPU-seconds of our processes for 1,000 requests"
    shown = ", ".join(f"{spent:.3f} {title}" for title, spent in cpu.items())
    yield _bound(what, max(cpu.values(), default=None), shown, most=0.3)
    for name, most_ms in ((NAME_ON_APACHE, 5.0), (NAME, 7.0)):
        figure = _figures(comparison, 1).get(name)
        p50_ms = figure.p50_ms if figure else None
        yield _bound(
            f"iris, one request at a time, p50, {_OURS[name]}",
            p50_ms,
            f"{p50_ms or 0:.1f} ms",
            most=most_ms,
            unit=" ms",
        )


def _mlp(results: Path) -> Iterator[Target]:
    plain = _figures(_read(results / "mlp.json", Comparison), 64)
    quantized = _figures(_read(results / "mlp-int8.json", Comparison), 64)
    for title, figures, least in (("MLP", plain, 1.6), ("MLP int8", quantized, 1.0)):
        peers = {name: figure for name, figure in figures.items() if name not in _OURS}
        best = max(peers, key=lambda name: peers[name].running_per_s, default="")
        yield _ratio(figures, best, what=f"{title}, concurrency 64, beside the best peer ({best})", least=least)
    is_there = NAME in plain and NAME in quantized
    gain = quantized[NAME].running_per_s / plain[NAME].running_per_s if is_there else None
    yield _bound("MLP int8 beside our own float32, concurrency 64", gain, f"{gain or 0:.3f}x", least=1.3, unit="x")


def _median_served(bulk: Bulk, way: str) -> float:
    return ROWS_A_RECORD * statistics.median(run.drain.per_served_s for run in bulk.runs if run.way == way)


def _bulk(results: Path) -> Iterator[Target]:
    heavy, iris = _read(results / "bulk-mlp-int8.json", Bulk), _read(results / "bulk-iris.json", Bulk)
    percent = 100 * _median_served(heavy, WORKER) / _median_served(heavy, ALONE) if heavy else None
    what = "bulk, MLP int8, rows/s of a worker core by onnxruntime's alone"
    yield _bound(what, percent, f"{percent or 0:.0f}%", least=90, unit=" %")
    rows_a_second = _median_served(iris, WORKER) if iris else None
    yield _bound("bulk, iris, rows/s of a worker core", rows_a_second, f"{rows_a_second or 0:,.0f}", least=300_000)


def _router(results: Path) -> Iterator[Target]:
    found = _read(results / "router-apache.json", list[Routing]) or []
    drains: list[Drain] = [one.drain for one in found if one.way == next(iter(WAYS))]
    rate = statistics.median(drain.per_running_s for drain in drains) if drains else None
    cpu_s = statistics.median(per_thousand(drain.cpu_s, drain.records) for drain in drains) if drains else None
    yield _bound("router, records/s of a process on Apache Kafka", rate, f"{rate or 0:,.0f}", least=30_000)
    yield _bound("router, CPU-seconds for 1,000 records", cpu_s, f"{cpu_s or 0:.4f}", most=0.03)
    hops = _read(results / "hops-apache-iris-1.json", Hops)
    added_ms = hops.latency.router_ms if hops else None
    what = "router, from taking a record to its acknowledgement, one at a time on Apache Kafka, p50"
    yield _bound(what, added_ms, f"{added_ms or 0:.2f} ms", most=1.5, unit=" ms")
    state = _read(results / "state-apache.json", State)
    percent = 100 * (_median_share(state, SUMMARIES) - _median_share(state, NOTHING)) if state else None
    what = "router's state path at 3,000 requests/s, of a core"
    yield _bound(what, percent, f"{percent or 0:.2f}%", most=3, unit=" %")


def _median_share(state: State, way: str) -> float:
    return statistics.median(run.share for run in state.runs if run.way == way)


def _cost(results: Path) -> Iterator[Target]:
    cost = _read(results / "cost-apache-500.json", Cost)
    ratio = None
    if cost:
        few, many = (
            statistics.median(run.per_1000(SERVING) for run in cost.runs if run.deployment == deployment)
            for deployment in dict.fromkeys(run.deployment for run in cost.runs)
        )
        ratio = many / few
    what = "CPU of a request with 20 versions and 24 partitions by that with 2 and 12, 500 requests/s"
    yield _bound(what, ratio, f"{ratio or 0:.2f}x", most=1.15, unit="x")
    idle = _read(results / "idle-embedded.json", Idle)
    percent = 100 * sum(idle.spell.cpu_s.values()) / idle.spell.running_s if idle else None
    yield _bound("the idle stack with broker and store, of a core", percent, f"{percent or 0:.1f}%", most=5, unit=" %")


def _burst(results: Path) -> Iterator[Target]:
    what = "burst of 3,000 requests/s for 10 s, MLP: accepted requests that were answered within 30 s"
    bursts = _read(results / "burst-mlp-30s.json", list[Burst]) or []
    ours = next((burst for burst in bursts if burst.name == NAME), None)
    if ours is None:
        yield _absent(what, "100 %")
        return
    peers = ", ".join(f"{one.name} {one.kept_share:.0%}" for one in bursts if one is not ours)
    shown = f"{ours.kept_share:.1%} of {ours.sent - ours.refused:,} ({ours.refused:,} refused); {peers}"
    yield Target(what=what, wanted="100 %", measured=shown, is_met=ours.kept_share >= 1.0)
