"""Fuzz the HTTP edge through nginx and HAProxy; exit 1 if an answer ever reached somebody else.

    python -m tests.http_fuzz --minutes 20 [--seed 7]

First it attacks uvicorn's own protocol, where it must find a leak: a run that cannot find one proves nothing.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping

from tests.http_fuzz.clients import Tally
from tests.http_fuzz.run import fuzz, fuzz_stock_server

_SELF_CHECK_S = 120.0


def main() -> int:
    """Run as asked; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.http_fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to fuzz (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="what the messages are drawn from (default: 1)")
    asked = parser.parse_args()
    found = asyncio.run(fuzz_stock_server(limit_s=_SELF_CHECK_S, seed=asked.seed))
    print("uvicorn's own protocol, which leaks:")
    _report(found)
    if not any(tally.leaks for tally in found.values()):
        print(f"no leak within {_SELF_CHECK_S:g} s: this run would find none here either")
        return 1
    tallies = asyncio.run(fuzz(limit_s=asked.minutes * 60, seed=asked.seed))
    print(f"Inferlane, {asked.minutes:g} minutes, seed {asked.seed}:")
    _report(tallies)
    return int(any(tally.leaks or not tally.answers for tally in tallies.values()))


def _report(tallies: Mapping[str, Tally]) -> None:
    for name, tally in tallies.items():
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items()))
        print(
            f"  {name}: {tally.messages} messages of attackers, {tally.answers} answers to clients ({statuses}), "
            f"{tally.unanswered} without an answer, {len(tally.leaks)} that reached somebody else"
        )
        for leak in tally.leaks[:3]:
            print(f"    {leak}")


if __name__ == "__main__":
    sys.exit(main())
