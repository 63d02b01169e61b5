"""What a comparison leaves behind, as its JSON file holds it."""

from collections.abc import Sequence

import msgspec

from benchmarks.figures import Figure, Window


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of a run."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    measured_at: str


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """An upper bound: rows a second of the CPU time of one thread, which a machine that is stopped does not spend."""

    batch: int
    rows_per_s: float
    runs: int


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Answers under load that were, and were not, onnxruntime's; `failed` had none."""

    equal: int = 0
    unequal: int = 0
    failed: int = 0


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one system by concurrency, and what the probe saw meanwhile."""

    windows: dict[int, list[Window]]
    checked: Checked


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One system in a comparison, with its windows so that anybody can make other figures of them."""

    name: str
    title: str
    versions: tuple[str, ...]
    figures: dict[int, Figure]
    checked: Checked
    windows: dict[int, list[Window]]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `python -m benchmarks compare` found."""

    case: str
    machine: Machine
    rounds: int
    bounds: tuple[Bound, ...]
    systems: tuple[Measured, ...]


def merged(rounds: Sequence[Closed]) -> Closed:
    """The windows of all rounds as one."""
    windows: dict[int, list[Window]] = {}
    for closed in rounds:
        for concurrency, taken in closed.windows.items():
            windows.setdefault(concurrency, []).extend(taken)
    return Closed(
        windows=windows,
        checked=Checked(
            equal=sum(closed.checked.equal for closed in rounds),
            unequal=sum(closed.checked.unequal for closed in rounds),
            failed=sum(closed.checked.failed for closed in rounds),
        ),
    )
