"""A rollout: its specification, its state and its history. The record of `inferlane.rollouts`. Pure.

One record is one decision: it holds the whole state with its history, under the rollout's id. What the controller then
does (write a split, reroute a backlog) follows from the state alone: after a crash it repeats the action and does not
decide twice. Commands of people are records of the same topic, under the key `command/<id>`.
"""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.errors import UNDECODABLE, DecodeError, clipped

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
MAX_TEXT = 2_000
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)]
MAX_COUNT = 2**48
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
MAX_STEPS = 100
# The most receivers of the events of one rollout.
MAX_NOTIFIED = 10
# Events that a state keeps. The first one and the newest stay; fewer lose how a long rollout went.
MAX_EVENTS = 200


class Phase(StrEnum):
    """The phase of a rollout."""

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
    def is_final(self) -> bool:
        """Whether the rollout is over: no phase follows."""
        return self in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.FAILED}


class Check(StrEnum):
    """The checks of a rollout, by name."""

    ERRORS = "errors"
    LATENCY = "latency"
    EXPIRED = "expired"
    ANSWERS = "answers"
    AGREEMENT = "agreement"
    SHARE = "share"
    PROMETHEUS = "prometheus"
    QUALITY = "quality"
    REWARD = "reward"


class Then(StrEnum):
    """The consequence of a failed check; `roll back`, which older releases write, is read too."""

    ROLL_BACK = "roll_back"
    PAUSE = "pause"

    @classmethod
    def _missing_(cls, value: object) -> "Then | None":
        return cls.ROLL_BACK if value == "roll back" else None


class CheckOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The options of one check. A check ignores those that it does not use.

    `alpha` bounds the probability of a false alarm over the whole rollout. `margin` is by how much the candidate's
    share may be larger at promotion, in points of 1 (0.005 is half a percent). `budget_ms` is the time a row of
    `latency` (0: twice the 95th percentile of the stable version), `distance` the Jensen-Shannon distance of
    `answers`, `agreement` the smallest share of equal labels. `query`, `min` and `max` are of `prometheus`: the value
    of the query must not leave these bounds. `margin` of `quality` is in points of 1, that of `reward` in its own unit;
    both take at least `min_count` pieces of feedback on each version.
    """

    then: Then | None = None
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    margin: Annotated[float, msgspec.Meta(gt=0)] = 0.01
    budget_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    distance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    agreement: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.95
    query: _Text = ""
    min: float | None = None
    max: float | None = None
    min_count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 100


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A share of the traffic: `weight` is answered by the candidate, or `shadow` is copied to it. One of them is 0.

    `min_requests` and `min_time_s` replace those of the rollout's pace for this step.
    """

    weight: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    shadow: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    min_requests: Count | None = None
    min_time_s: _Seconds | None = None

    def __post_init__(self) -> None:
        if (self.weight > 0) == (self.shadow > 0):
            raise DecodeError("a step has a weight or a shadow share over 0, and not both")


class Pace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The least duration of a step, and how long it may wait for its requests before it pauses.

    Before the candidate gets all traffic, its failures must be shown not to be worse by more than the margin, or there
    must be `promote_after` of its requests without an alarm (0: only the former counts).
    """

    min_requests: Count = 500
    min_time_s: _Seconds = 120.0
    max_wait_s: _Seconds = 6 * 3600.0
    promote_after: Count = 0


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most failures that the candidate may have while it gets less than all of the traffic."""

    failed_requests: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 50


class OnFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What happens to records that wait for the candidate when it is rolled back.

    `reroute` moves them to the stable version, `drain` lets the candidate work them off, `auto` reroutes where a
    worker is halted and drains otherwise. `retry_failed` replays what the candidate failed and nobody answered.
    """

    backlog: Literal["auto", "drain", "reroute"] = "auto"
    retry_failed: bool = True


def default_checks() -> dict[Check, CheckOptions]:
    """Return the checks of a rollout that names none."""
    return {name: CheckOptions() for name in (Check.ERRORS, Check.LATENCY, Check.EXPIRED, Check.ANSWERS, Check.SHARE)}


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The specification of a rollout. `lanes` are those in which the candidate gets traffic.

    `fallback`: `stable` has the stable version answer what the candidate fails or would expire on, under the same id;
    `none` lets the failure be the answer. `notify` are URLs to which every event is sent.
    """

    model: _Name
    candidate: _Name
    stable: _Name
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]
    lanes: Annotated[tuple[Lane, ...], msgspec.Meta(min_length=1, max_length=2)] = (Lane.REQUESTS, Lane.BULK)
    each: Pace = Pace()
    bake_s: _Seconds = 600.0
    prepare_s: _Seconds = 300.0
    checks: dict[Check, CheckOptions] = msgspec.field(default_factory=default_checks)
    exposure: Exposure = Exposure()
    fallback: Literal["stable", "none"] = "stable"
    on_failure: OnFailure = OnFailure()
    notify: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_NOTIFIED)] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The present result of a check: candidate and stable, with the evidence. Shares are fractions of 1.

    `says` is a sentence for people. `log_evidence` is the logarithm of the e-value that the candidate is worse;
    `low` and `high` bound the difference (candidate less stable) at any time.
    """

    check: Check
    is_failed: bool = False
    is_enough: bool = False
    says: _Text = ""
    candidate: float | None = None
    stable: float | None = None
    candidate_requests: Count = 0
    stable_requests: Count = 0
    low: float | None = None
    high: float | None = None
    log_evidence: float | None = None


class RolloutEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, with the numbers that it was decided on."""

    number: Count
    at_s: float
    phase: Phase
    was: Phase
    step: int = 0
    weight: float = 0.0
    reason: _Text = ""
    by: _Text = ""
    requests: Count = 0
    verdicts: tuple[Verdict, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The evidence from all slots up to `through_slot`; arrays in base64 (`router.rollouts.evidence`)."""

    through_slot: int = -1
    numbers: dict[str, bytes] = {}


class RolloutState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a rollout stands after its last decision.

    `generation` rises with each controller that takes over and each change of the split: a split record with a smaller
    one than the model's is passed over. `paused_from` is the phase that a resume returns to. `commands_through` is the
    offset of the last command that was decided on. `waits_for` says what is missing. `notified` is the number of the
    last event that the receivers of `notify` are told of for sure.
    """

    id: _Name
    spec: RolloutSpec
    phase: Phase = Phase.DRAFT
    generation: Count = 0
    revision: Count = 0
    step: int = 0
    created_s: float = 0.0
    phase_since_s: float = 0.0
    step_since_s: float = 0.0
    paused_from: Phase | None = None
    # Whether a person has set the split of the model since: the rollout leaves it alone until it is resumed.
    is_split_theirs: bool = False
    # Whether a person gave the candidate all traffic: then nobody waits for a request to show that it answers.
    is_promoted_by_hand: bool = False
    # Checks whose failure a person has accepted by resuming.
    accepted: tuple[Check, ...] = ()
    commands_through: int = -1
    requests_in_step: Count = 0
    failed_requests: Count = 0
    waits_for: _Text = ""
    reason: _Text = ""
    verdicts: tuple[Verdict, ...] = ()
    evidence: Evidence = Evidence()
    events: tuple[RolloutEvent, ...] = ()
    notified: Count = 0

    @property
    def awaits_probe(self) -> bool:
        """Whether the candidate has yet to show that it answers; until then it gets no traffic, a pause included."""
        return Phase.PREPARING in {self.phase, self.paused_from if self.phase is Phase.PAUSED else None}


class Action(StrEnum):
    """The commands that a person may give to a rollout."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command of a person. Only a start has a `spec`. The controller deletes the record once it has decided."""

    id: _Name
    rollout: _Name
    action: Action
    by: _Text = ""
    reason: _Text = ""
    at_s: float = 0.0
    spec: RolloutSpec | None = None


_COMMAND_PREFIX = "command/"
encode_rollout = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(RolloutState).decode
_decode_command = msgspec.json.Decoder(Command).decode


def key_of(record: RolloutState | Command) -> bytes:
    """Return the key of a record of the rollout topic."""
    return (record.id if isinstance(record, RolloutState) else f"{_COMMAND_PREFIX}{record.id}").encode()


def is_command_key(key: bytes) -> bool:
    """Return whether the record under this key is a command."""
    return key.startswith(_COMMAND_PREFIX.encode())


def decode_rollout(key: bytes, raw: bytes) -> RolloutState | Command:
    """Read a record of the rollout topic.

    Raises:
        DecodeError: it holds neither a state nor a command.
    """
    try:
        return _decode_command(raw) if is_command_key(key) else _decode_state(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"a record of the rollout topic holds no rollout: {clipped(str(error))}") from error
