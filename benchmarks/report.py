"""A comparison as Markdown."""

from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.measured import Comparison, Measured
from benchmarks.systems.running import NAME

_HEAD = (
    "| system | answered/s | running | best | Inferlane is | p50 ms | p99 ms | own CPU-s | broker, store CPU-s | MiB | "
    "errors | wrong | available | spread |"
)


def to_markdown(comparison: Comparison) -> str:
    """The tables of a comparison, one for each concurrency, and its upper bounds."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    machine = comparison.machine
    yield f"## {comparison.case}"
    yield ""
    yield (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Linux {machine.kernel}, "
        f"Python {machine.python}; {machine.measured_at}; {comparison.rounds} rounds."
    )
    for concurrency in sorted({key for system in comparison.systems for key in system.figures}):
        yield from ("", f"### concurrency {concurrency}", "", _HEAD, "|---|" + "---:|" * 13)
        ours = next((one.figures[concurrency] for one in comparison.systems if one.name == NAME), None)
        for system in comparison.systems:
            if concurrency in system.figures:
                yield _row(system, system.figures[concurrency], ours)
        yield from _strongest(comparison, concurrency)
    yield from ("", "### onnxruntime alone, one thread", "", "| batch | rows/s of CPU time |", "|---:|---:|")
    for bound in comparison.bounds:
        yield f"| {bound.batch} | {bound.rows_per_s:,.0f} |"


def _strongest(comparison: Comparison, concurrency: int) -> Iterator[str]:
    """Which of its settings each peer is strongest at, of those that are there with more than one."""
    families: dict[str, list[Measured]] = {}
    for system in comparison.systems:
        if concurrency in system.figures and system.name != NAME:
            # What comes behind the first comma of a title is the setting.
            families.setdefault(system.title.partition(",")[0], []).append(system)
    for settings in families.values():
        if len(settings) > 1:
            best = max(settings, key=lambda system: system.figures[concurrency].running_per_s)
            yield from ("", f"Strongest setting: {best.title}.")


def _row(system: Measured, figure: Figure, ours: Figure | None) -> str:
    ratio = "" if ours is None or not figure.running_per_s else f"{ours.running_per_s / figure.running_per_s:.2f}x"
    cells = (
        system.title,
        f"{figure.answered_per_s:,.0f}",
        f"{figure.running_per_s:,.0f}",
        f"{figure.best_per_s:,.0f}",
        "" if system.name == NAME else ratio,
        f"{figure.p50_ms:.1f}",
        f"{figure.p99_ms:.1f}",
        f"{figure.own_cpu_s_per_1000:.3f}",
        f"{figure.parts_cpu_s_per_1000:.3f}",
        f"{figure.peak_mib:,.0f}",
        f"{figure.errors}",
        f"{system.checked.unequal} of {system.checked.equal + system.checked.unequal}",
        f"{figure.available:.0%}",
        f"{figure.spread:.0%}",
    )
    return "| " + " | ".join(cells) + " |"
