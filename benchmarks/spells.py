"""What named processes spend in a spell of time."""

import time
from collections.abc import Mapping
from typing import Self

import msgspec

from benchmarks.stalls import StallGauge
from benchmarks.usage import cpu_by_process


class Spell(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds by process; `available` is the share of `elapsed_s` that the machine ran."""

    elapsed_s: float
    available: float
    cpu_s: dict[str, float]

    @property
    def running_s(self) -> float:
        """Seconds that the machine ran."""
        return self.elapsed_s * self.available


class SpellMeter:
    """Counts while it is entered; `spell` is there afterwards."""

    spell: Spell

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._gauge = StallGauge()
        self._started_s = 0.0
        self._before: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._gauge.__enter__()
        self._before = cpu_by_process(self._pids)
        self._started_s = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed_s = time.perf_counter() - self._started_s
        after = cpu_by_process(self._pids)
        self._gauge.__exit__()
        self.spell = Spell(
            elapsed_s=elapsed_s,
            available=1.0 - self._gauge.stalled_s / elapsed_s,
            cpu_s={name: after[name] - before for name, before in self._before.items()},
        )
