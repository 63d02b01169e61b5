"""One sentence about the whole: is all well, and if not, what is the worst. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import msgspec

# Fewer waiting records than this are a batch on its way, not a backlog.
_LEAST_BACKLOG = 50
# A backlog that is worked off within this long hurts nobody.
_SHORT_WAIT_S = 2.0
_ERRORS_WARN = 0.01
_ERRORS_BAD = 0.1
_IDLE_PER_S = 0.05


class Tone(StrEnum):
    """How bad it is."""

    IDLE = "idle"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The headline of the page, and a sentence that says more."""

    tone: Tone
    title: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the verdict is made of; shares are of 1, versions are named `model version`."""

    GROWTH_OVER_S: ClassVar[float] = 15.0

    api_error: str | None = None
    broker_error: str | None = None
    finished_per_s: float = 0.0
    lag_records: int = 0
    lag_records_before: int | None = None
    without_workers: tuple[str, ...] = ()
    error_shares: Mapping[str, float]
    error_share: float | None = None
    slowest_p95_ms: float = 0.0
    restarting: tuple[str, ...] = ()
    # What is not served, each with its reason.
    unusable: tuple[str, ...] = ()


def judge(signs: Signs) -> Verdict:
    """The worst that is true."""
    return _broken(signs) or _failing(signs) or _behind(signs) or _unserved(signs) or _well(signs)


def _broken(signs: Signs) -> Verdict | None:
    if signs.api_error:
        return Verdict(tone=Tone.BAD, title="The API does not answer", detail=signs.api_error)
    if signs.broker_error:
        return Verdict(tone=Tone.BAD, title="The broker does not answer", detail=signs.broker_error)
    if signs.without_workers:
        names = ", ".join(signs.without_workers)
        return Verdict(tone=Tone.BAD, title="Requests wait and no worker is there", detail=f"Start workers of {names}.")
    if signs.restarting:
        return Verdict(
            tone=Tone.WARN,
            title="A process died and is started again",
            detail=f"{', '.join(signs.restarting)}. What it held is redelivered.",
        )
    return None


def _failing(signs: Signs) -> Verdict | None:
    share = signs.error_share or 0.0
    if share < _ERRORS_WARN or not signs.error_shares:
        return None
    worst = max(signs.error_shares, key=lambda name: signs.error_shares[name])
    return Verdict(
        tone=Tone.BAD if share >= _ERRORS_BAD else Tone.WARN,
        title=f"{share:.1%} of the answers are errors",
        detail=f"Worst is {worst} with {signs.error_shares[worst]:.1%} over the last minute.",
    )


def _behind(signs: Signs) -> Verdict | None:
    drained_s = signs.lag_records / signs.finished_per_s if signs.finished_per_s > _IDLE_PER_S else None
    if signs.lag_records < _LEAST_BACKLOG or (drained_s is not None and drained_s < _SHORT_WAIT_S):
        return None
    waiting = f"{signs.lag_records:,} requests wait"
    if drained_s is None:
        return Verdict(tone=Tone.BAD, title=f"{waiting} and none is finished", detail="`inferlane doctor` says why.")
    if signs.lag_records_before is not None and signs.lag_records > signs.lag_records_before:
        grown = f"{signs.lag_records - signs.lag_records_before:,} more than {signs.GROWTH_OVER_S:.0f} s ago"
        return Verdict(
            tone=Tone.WARN,
            title="The backlog grows",
            detail=f"{waiting}, {grown}; {signs.finished_per_s:,.0f}/s are finished.",
        )
    return Verdict(
        tone=Tone.WARN,
        title="A backlog is worked off",
        detail=f"{waiting}, about {drained_s:,.0f} s of work at {signs.finished_per_s:,.0f}/s.",
    )


def _unserved(signs: Signs) -> Verdict | None:
    if not signs.unusable:
        return None
    count = len(signs.unusable)
    return Verdict(
        tone=Tone.WARN,
        title=f"{count} {'version is' if count == 1 else 'versions are'} not served, the others are",
        detail=" · ".join(signs.unusable),
    )


def _well(signs: Signs) -> Verdict:
    if signs.finished_per_s <= _IDLE_PER_S:
        return Verdict(tone=Tone.IDLE, title="Ready and idle", detail="No request in the last seconds.")
    waits = f"{signs.lag_records:,} waiting" if signs.lag_records else "nothing waits"
    return Verdict(
        tone=Tone.GOOD,
        title="All is well",
        detail=f"{signs.finished_per_s:,.0f} requests/s, p95 {signs.slowest_p95_ms:,.0f} ms, {waits}.",
    )
