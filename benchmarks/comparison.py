"""One comparison: every system in turn, in rounds of alternating order."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from benchmarks.bounds import measure_bounds
from benchmarks.cases import Case
from benchmarks.closed_loop import Plan, measure_closed
from benchmarks.figures import figure_of
from benchmarks.machine import this_machine
from benchmarks.measured import Closed, Comparison, Measured, merged
from benchmarks.systems.inferlane import serve_inferlane, serve_inferlane_on_apache
from benchmarks.systems.peers import serve_peer
from benchmarks.systems.running import NAME, NAME_ON_APACHE, NotReadyError, Running

_OURS: Mapping[str, Callable[[Case], AbstractContextManager[Running]]] = {
    NAME: serve_inferlane,
    NAME_ON_APACHE: serve_inferlane_on_apache,
}


def compare(case: Case, names: Sequence[str], plan: Plan, *, rounds: int) -> Comparison:
    """Measure each system `rounds` times; only one of them runs at a time.

    Raises:
        WrkError: wrk is missing or failed.
    """
    closed: dict[str, list[Closed]] = {name: [] for name in names}
    seen: dict[str, Running] = {}
    for number, name in _turns(names, rounds):
        print(f"round {number + 1}: {name}", flush=True)
        try:
            with serve(name, case) as running:
                seen[name] = running
                closed[name].append(measure_closed(running, case, plan, number=number))
        except NotReadyError as error:
            # One that does not start must not cost the figures of all the others; it is missing from the tables.
            print(f"{name} is left out of this round: {error}", file=sys.stderr, flush=True)
    return Comparison(
        case=case.name,
        machine=this_machine(),
        rounds=rounds,
        bounds=measure_bounds(case),
        systems=tuple(_measured(seen[name], merged(closed[name])) for name in names if closed[name]),
    )


def serve(name: str, case: Case) -> AbstractContextManager[Running]:
    """The system of that name, running while the context is entered."""
    return _OURS[name](case) if name in _OURS else serve_peer(name, case)


def _turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each system once a round; every other round backwards, so that none is always the one after another."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def _measured(running: Running, closed: Closed) -> Measured:
    return Measured(
        name=running.name,
        title=running.title,
        versions=running.versions,
        figures={concurrency: figure_of(taken) for concurrency, taken in closed.windows.items()},
        checked=closed.checked,
        windows=closed.windows,
    )
