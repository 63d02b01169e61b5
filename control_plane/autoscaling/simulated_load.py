"""The load of a pool over time: a trace, or a generated pattern. Rates are records per second."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from inferlane.errors import ConfigurationError

Rates = NDArray[np.float64]

LANES = ("requests", "bulk")
_COLUMNS = ("time_s", "requests_per_s", "bulk_per_s")


@dataclass(frozen=True, slots=True)
class Load:
    """`rates`: (steps, lanes) float64, records a second in each step of `step_s` seconds; lanes as in `LANES`."""

    step_s: float
    rates: Rates

    @property
    def duration_s(self) -> float:
        return len(self.rates) * self.step_s

    def share(self, share: float) -> "Load":
        """Return this share of the load."""
        return Load(self.step_s, self.rates * share)


class Pattern(StrEnum):
    """A shape between 0 and 1 of the peak rate."""

    STEADY = "steady"
    BURST = "burst"
    DAILY = "daily"
    SPIKES = "spikes"


_QUIET = 0.1
_SPIKES = 6
_SPIKE_PART = 0.1
_BURST_FROM, _BURST_TO = 0.1, 0.2

# Each of the time as a part of the whole, from 0 to 1.
_SHAPES: Mapping[Pattern, Callable[[float], float]] = {
    Pattern.STEADY: lambda _: 1.0,
    # Nothing, then a tenth of the time at the peak, then nothing.
    Pattern.BURST: lambda part: float(_BURST_FROM <= part < _BURST_TO),
    # A day from night to night, never quite empty.
    Pattern.DAILY: lambda part: _QUIET + (1 - _QUIET) * (1 - math.cos(2 * math.pi * part)) / 2,
    # A tenth of the peak, and six short peaks.
    Pattern.SPIKES: lambda part: 1.0 if (part * _SPIKES) % 1.0 < _SPIKE_PART else _QUIET,
}


def draw_pattern(pattern: Pattern, *, rate_per_s: float, bulk_per_s: float, duration_s: float, step_s: float) -> Load:
    """Return the pattern with these rates at its peak."""
    steps = max(1, math.ceil(duration_s / step_s))
    shape = np.array([_SHAPES[pattern](step / steps) for step in range(steps)])
    return Load(step_s, np.outer(shape, (rate_per_s, bulk_per_s)))


def read_trace(lines: Iterable[str], *, step_s: float, source: str) -> Load:
    """Return the load of a CSV with the columns `time_s`, `requests_per_s` and, if there is one, `bulk_per_s`.

    A row's rates hold until the time of the next row; those of the last row for as long as the row before it.

    Raises:
        ConfigurationError: a column is missing, a value is no number, or time does not go on; the message has the line.
    """
    reader = csv.DictReader(lines)
    if missing := set(_COLUMNS[:2]) - set(reader.fieldnames or ()):
        raise ConfigurationError(
            f"{source} has no column {', '.join(sorted(missing))}; it needs {', '.join(_COLUMNS)}."
        )
    rows = []
    for row in reader:
        try:
            rows.append([float(row.get(column) or 0.0) for column in _COLUMNS])
        except ValueError as error:
            raise ConfigurationError(f"{source}, line {reader.line_num}: {error}. Write plain numbers.") from error
        is_later = len(rows) < 2 or rows[-1][0] > rows[-2][0]  # noqa: PLR2004 - one row has none before it
        if not is_later or min(rows[-1][1:]) < 0 or not all(map(math.isfinite, rows[-1])):
            raise ConfigurationError(
                f"{source}, line {reader.line_num}: {rows[-1]}; time must go on and no rate may be below 0."
            )
    if len(rows) < 2:  # noqa: PLR2004 - the length of the last row is that of the one before
        raise ConfigurationError(f"{source} has {len(rows)} rows; a trace needs 2 or more.")
    table = np.array(rows)
    starts = table[:, 0] - table[0, 0]
    duration_s = starts[-1] + (starts[-1] - starts[-2])
    times = np.arange(0.0, duration_s, step_s)
    return Load(step_s, table[np.searchsorted(starts, times, side="right") - 1, 1:])
