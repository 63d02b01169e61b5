"""From windows to figures. Pure."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

# Of the windows of one system at one concurrency, the share with the most running time that "best" is taken from.
_BEST_SHARE = 0.25


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One second or so of load on one system.

    `available` is the share of `elapsed_s` that the machine ran (1 on a machine that is never stopped). CPU seconds are
    of the system's own processes and, apart, of the broker and store that it uses.
    """

    round: int
    elapsed_s: float
    available: float
    answered: int
    errors: int
    p50_ms: float
    p99_ms: float
    own_cpu_s: float
    parts_cpu_s: float
    rss_mib: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one concurrency.

    `answered_per_s` is the median of windows; `running_per_s` the same by seconds in which the machine ran, and
    `best_per_s` the median of the quarter of windows with the most running time. `spread` is the distance between the
    quartiles of `running_per_s` by its median. CPU seconds are sums over all windows.
    """

    windows: int
    available: float
    answered_per_s: float
    running_per_s: float
    best_per_s: float
    spread: float
    p50_ms: float
    p99_ms: float
    errors: int
    own_cpu_s_per_1000: float
    parts_cpu_s_per_1000: float
    peak_mib: float


def figure_of(windows: Sequence[Window]) -> Figure:
    """The figure of windows of any number of rounds.

    Raises:
        ValueError: there is no window.
    """
    if not windows:
        raise ValueError("no window to make a figure of")
    running = [_running_per_s(window) for window in windows]
    best = best_windows(windows)
    answered = sum(window.answered for window in windows)
    return Figure(
        windows=len(windows),
        available=_median(windows, lambda window: window.available),
        answered_per_s=_median(windows, lambda window: window.answered / window.elapsed_s),
        running_per_s=statistics.median(running),
        best_per_s=_median(best, lambda window: window.answered / window.elapsed_s),
        spread=spread_of(running),
        p50_ms=_median(best, lambda window: window.p50_ms),
        p99_ms=_median(best, lambda window: window.p99_ms),
        errors=sum(window.errors for window in windows),
        own_cpu_s_per_1000=per_thousand(sum(window.own_cpu_s for window in windows), answered),
        parts_cpu_s_per_1000=per_thousand(sum(window.parts_cpu_s for window in windows), answered),
        peak_mib=max(window.rss_mib for window in windows),
    )


def best_windows(windows: Sequence[Window]) -> list[Window]:
    """The quarter of them, at least one, in which the machine ran most."""
    ordered = sorted(windows, key=lambda window: window.available, reverse=True)
    return ordered[: max(1, round(len(ordered) * _BEST_SHARE))]


def spread_of(values: Sequence[float]) -> float:
    """The distance between the quartiles by the median; 0 where there is no telling."""
    median = statistics.median(values)
    if len(values) < 2 or median == 0:  # noqa: PLR2004 - one value has no spread
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / median


def rates_by_round(windows: Sequence[Window]) -> dict[int, float]:
    """The answers a second of each round, by seconds in which the machine ran: the medians of its windows."""
    rounds: dict[int, list[float]] = {}
    for window in windows:
        rounds.setdefault(window.round, []).append(_running_per_s(window))
    return {number: statistics.median(rates) for number, rates in rounds.items()}


def ratio_by_rounds(windows: Sequence[Window], others: Sequence[Window]) -> float:
    """The first rate by the second, in the round where that is the median: machines become slower and faster meanwhile.

    Raises:
        ValueError: they have no round in common.
    """
    ours, theirs = rates_by_round(windows), rates_by_round(others)
    ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number]]
    if not ratios:
        raise ValueError("no round has windows of both")
    return statistics.median(ratios)


def per_thousand(cpu_s: float, answered: int) -> float:
    """CPU seconds for 1,000 answers; infinite where nothing was answered."""
    return cpu_s / answered * 1000 if answered else float("inf")


def _running_per_s(window: Window) -> float:
    return window.answered / (window.elapsed_s * window.available) if window.available > 0 else 0.0


def _median(windows: Sequence[Window], of: Callable[[Window], float]) -> float:
    return statistics.median(of(window) for window in windows)
