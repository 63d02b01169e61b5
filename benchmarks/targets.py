"""Each target beside what was measured, from the results that are kept. A result that is not there is not met."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.beside import Beside
from benchmarks.bulk import ALONE, ROWS_A_RECORD, WORKER, Bulk
from benchmarks.burst import Burst
from benchmarks.figures import Figure, ratio_by_rounds
from benchmarks.footprint import COMMANDS, ONE_VERSION, REQUESTS, SAMPLES, Footprint
from benchmarks.hops import Hops
from benchmarks.idle import Idle
from benchmarks.measured import Comparison
from benchmarks.rollout_overhead import Overhead
from benchmarks.shadowing import Shadowing, all_but_copies, ratios_of
from benchmarks.submit import KINDS, Submissions, median_per_s
from benchmarks.systems.deployed import by_kind
from benchmarks.systems.running import NAME, NAME_ON_APACHE, ON_APACHE

_T = TypeVar("_T")
_OURS = {NAME: "embedded", NAME_ON_APACHE: "on Apache Kafka"}
# The settings that a peer is measured at.
_FAMILIES = {
    "FastStream": ("faststream_kafka", "faststream_redis"),
    "FastAPI + onnxruntime, one process": ("fastapi_onnx",),
    "MLServer": ("mlserver", "mlserver_inline"),
}
_IRIS_WANTED = {
    64: {"FastStream": 1.15, "FastAPI + onnxruntime, one process": 1.4, "MLServer": 1.7},
    256: {"FastStream": 1.6, "FastAPI + onnxruntime, one process": 2.0, "MLServer": 2.4},
}


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
        *_peers(results),
        *_alone(results),
        *_cpu(results),
        *_footprint(results),
        *_bulk(results),
        *_submitted(results),
        *_beside(results),
        *_burst(results),
        *_trials(results),
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


def _strongest(figures: dict[str, Figure], family: tuple[str, ...]) -> str | None:
    """The setting of a peer that answered most."""
    there = [name for name in family if name in figures]
    return max(there, key=lambda name: figures[name].running_per_s, default=None)


def _ratio(
    comparison: Comparison | None, concurrency: int, family: tuple[str, ...], *, what: str, least: float
) -> Target:
    """Each of our rates, by that of the peer's strongest setting on the same broker; the lower ratio decides."""
    wanted = f"≥ {least:g}x"
    figures = _figures(comparison, concurrency)
    systems = {one.name: one for one in comparison.systems} if comparison else {}
    ratios: list[float] = []
    shown: list[str] = []
    for name, where in _OURS.items():
        peer = _strongest(figures, _on_same_broker(name, family, figures))
        if name in figures and peer is not None and figures[peer].running_per_s:
            windows = (systems[name].windows[concurrency], systems[peer].windows[concurrency])
            ratios.append(ratio_by_rounds(*windows))
            shown.append(f"{ratios[-1]:.2f}x {where} ({systems[peer].title})")
    if not ratios:
        return _absent(what, wanted)
    return Target(what=what, wanted=wanted, measured=", ".join(shown), is_met=min(ratios) >= least)


def _on_same_broker(ours: str, family: tuple[str, ...], figures: dict[str, Figure]) -> tuple[str, ...]:
    """The settings of a peer on the broker of ours; those that need none are beside both."""
    if ours == NAME:
        return family
    return tuple(name + ON_APACHE if name + ON_APACHE in figures else name for name in family)


def _peers(results: Path) -> Iterator[Target]:
    iris, mlp = (_read(results / f"{name}.json", Comparison) for name in ("iris", "mlp"))
    for concurrency, wanted in _IRIS_WANTED.items():
        for title, least in wanted.items():
            what = f"iris, concurrency {concurrency}, beside {title} at its strongest setting"
            yield _ratio(iris, concurrency, _FAMILIES[title], what=what, least=least)
    names = [one.name for one in mlp.systems if one.name not in _OURS] if mlp else []
    others = tuple(name for name in names if not name.endswith(ON_APACHE))
    yield _ratio(mlp, 64, others, what="MLP, concurrency 64, beside the best peer", least=1.6)


def _alone(results: Path) -> Iterator[Target]:
    comparison = _read(results / "iris.json", Comparison)
    for name, most_ms in ((NAME, 4.5), (NAME_ON_APACHE, 3.5)):
        figure = _figures(comparison, 1).get(name)
        p50_ms = figure.p50_ms if figure else None
        what = f"iris, one request at a time, p50, {_OURS[name]}"
        yield _bound(what, p50_ms, f"{p50_ms or 0:.1f} ms", most=most_ms, unit=" ms")


def _cpu(results: Path) -> Iterator[Target]:
    hops = _read(results / "hops-embedded-iris-64.json", Hops)
    spent = by_kind(hops.cpu_s_per_1000) if hops else {}
    for kind, most in (("API", 0.085), ("router", 0.03), ("workers", 0.05)):
        what = f"iris, concurrency 64, CPU-seconds of {kind} for 1,000 requests"
        yield _bound(what, spent.get(kind), f"{spent.get(kind, 0):.3f}", most=most)
    idle = _read(results / "idle-embedded.json", Idle)
    percent = 100 * sum(idle.spell.cpu_s.values()) / idle.spell.running_s if idle else None
    yield _bound(
        "the idle stack of the sample models with broker and store, of a core",
        percent,
        f"{percent or 0:.1f}%",
        most=3,
        unit=" %",
    )


def _footprint(results: Path) -> Iterator[Target]:
    found = _read(results / "footprint.json", Footprint)
    for title, most in ((ONE_VERSION, 300.0), (SAMPLES, 450.0)):
        mib = sum(found.stacks[title].pss_mib.values()) if found else None
        what = f"memory (PSS) after {REQUESTS:,} requests, {title}"
        yield _bound(what, mib, f"{mib or 0:.0f} MiB", most=most, unit=" MiB")
    ready_s = found.stacks[SAMPLES].ready_s if found else None
    yield _bound(f"`inferlane up` until ready, {SAMPLES}", ready_s, f"{ready_s or 0:.1f} s", most=8, unit=" s")
    for command, spent in (found.commands_s if found else dict.fromkeys(COMMANDS, None)).items():
        yield _bound(f"CPU of `{command}`", spent, f"{spent or 0:.2f} s", most=0.3, unit=" s")


def _median_served(bulk: Bulk, way: str) -> float:
    return ROWS_A_RECORD * statistics.median(run.drain.per_served_s for run in bulk.runs if run.way == way)


def _bulk(results: Path) -> Iterator[Target]:
    heavy = _read(results / "bulk-mlp-int8.json", Bulk)
    percent = 100 * _median_served(heavy, WORKER) / _median_served(heavy, ALONE) if heavy else None
    what = "bulk, MLP int8, rows/s of a worker core by onnxruntime's alone"
    yield _bound(what, percent, f"{percent or 0:.0f}%", least=90, unit=" %")


def _submitted(results: Path) -> Iterator[Target]:
    found = _read(results / "submit-iris.json", Submissions)
    for kind, title in zip(KINDS, ("Parquet", "CSV"), strict=True):
        per_s = median_per_s(found.runs, kind) if found else None
        what = f"`inferlane batch submit`, a million rows of iris from {title}, its start included"
        yield _bound(what, per_s, f"{per_s or 0:,.0f} rows/s", least=100_000, unit=" rows/s")


def _beside(results: Path) -> Iterator[Target]:
    found = _read(results / "beside-iris.json", Beside)
    factor, percent = (found.p99_factor, 100 * found.bulk_share) if found else (None, None)
    what = "beside a bulk job, p99 of a client at 20 requests/s by that alone"
    yield _bound(what, factor, f"{factor or 0:.1f}x", most=2, unit="x")
    what = "beside that client, rows/s of the bulk job by those alone"
    yield _bound(what, percent, f"{percent or 0:.0f}%", least=70, unit=" %")


def _trials(results: Path) -> Iterator[Target]:
    found = _read(results / "shadowing.json", Shadowing)
    ratio = statistics.median(ratios_of(found, all_but_copies(found))) if found else None
    what = "a shadow of 10 %, iris, concurrency 64: CPU of all but the worker of the copies, by that without"
    yield _bound(what, ratio, f"{ratio or 0:.3f}x", most=1.05, unit="x")
    overhead = _read(results / "rollout-overhead.json", Overhead)
    hops = _read(results / "hops-embedded-iris-64.json", Hops)
    percent = (
        100 * sum(overhead.more_us.values()) / 1000 / sum(hops.cpu_s_per_1000.values()) if overhead and hops else None
    )
    what = "no rollout: CPU of the code of rollouts, of that of a request of iris at concurrency 64"
    yield _bound(what, percent, f"{percent or 0:.2f}%", most=1, unit=" %")


def _burst(results: Path) -> Iterator[Target]:
    what = "burst of 6,000 requests/s for 10 s, iris: accepted requests that were answered within 30 s"
    bursts = _read(results / "burst-iris-30s.json", list[Burst]) or []
    ours = next((burst for burst in bursts if burst.name == NAME), None)
    if ours is None:
        yield _absent(what, "100 %")
        return
    peers = ", ".join(f"{one.name} {one.kept_share:.0%}" for one in bursts if one is not ours)
    shown = f"{ours.kept_share:.1%} of {ours.sent - ours.refused:,} ({ours.refused:,} refused); {peers}"
    yield Target(what=what, wanted="100 %", measured=shown, is_met=ours.kept_share >= 1.0)
