"""What the API says of a rollout, with types."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from inferlane_client.answers import read_fields


class RolloutPhase(StrEnum):
    """Where a rollout is. The last three are its ends."""

    DRAFT = "draft"
    PREPARING = "preparing"
    SHADOWING = "shadowing"
    STEPPING = "stepping"
    BAKING = "baking"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether no phase follows."""
        return self in {RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutVerdict:
    """What a check says: in words, and where it has them both versions' values and the bounds of the difference."""

    check: str
    is_failed: bool
    says: str
    candidate: float | None
    stable: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutEvent:
    """One thing that happened, when (seconds since the epoch), why, and by whose key."""

    number: int
    at_s: float
    phase: RolloutPhase
    was: RolloutPhase
    weight: float
    reason: str
    by: str
    verdicts: tuple[RolloutVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout: its phase, the candidate's share of the traffic, what it waits for and why it is where it is.

    `document` is the whole answer, as `GET /v1/rollouts/{id}` documents it.
    """

    id: str
    model: str
    stable: str
    candidate: str
    phase: RolloutPhase
    weight: float
    step: int
    requests_in_step: int
    waits_for: str
    reason: str
    verdicts: tuple[RolloutVerdict, ...]
    events: tuple[RolloutEvent, ...]
    document: Mapping[str, Any]


def read_rollout(document: Mapping[str, Any]) -> Rollout:
    """A rollout.

    Raises:
        UnexpectedAnswer: the document holds none.
    """
    return read_fields(document, _rollout)


def read_rollouts(document: Mapping[str, Any]) -> tuple[Rollout, ...]:
    """Every rollout of a list.

    Raises:
        UnexpectedAnswer: the document holds none.
    """
    return read_fields(document, lambda read: tuple(_rollout(one) for one in read["rollouts"]))


def _rollout(document: Mapping[str, Any]) -> Rollout:
    spec = document["spec"]
    return Rollout(
        id=document["id"],
        model=spec["model"],
        stable=spec["stable"],
        candidate=spec["candidate"],
        phase=RolloutPhase(document["phase"]),
        weight=document["weight"],
        step=document["step"],
        requests_in_step=document.get("requests_in_step", 0),
        waits_for=document.get("waits_for", ""),
        reason=document.get("reason", ""),
        verdicts=_verdicts(document),
        events=tuple(_event(event) for event in document.get("events", ())),
        document=document,
    )


def _event(document: Mapping[str, Any]) -> RolloutEvent:
    return RolloutEvent(
        number=document["number"],
        at_s=document["at_s"],
        phase=RolloutPhase(document["phase"]),
        was=RolloutPhase(document["was"]),
        weight=document.get("weight", 0.0),
        reason=document.get("reason", ""),
        by=document.get("by", ""),
        verdicts=_verdicts(document),
    )


def _verdicts(document: Mapping[str, Any]) -> tuple[RolloutVerdict, ...]:
    return tuple(
        RolloutVerdict(
            check=one["check"],
            is_failed=one.get("is_failed", False),
            says=one.get("says", ""),
            candidate=one.get("candidate"),
            stable=one.get("stable"),
            low=one.get("low"),
            high=one.get("high"),
        )
        for one in document.get("verdicts", ())
    )
