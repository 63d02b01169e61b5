"""The traffic split of a model and the versions that have workers: routing chooses from them. Pure."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

import msgspec

from inferlane.contracts.naming import Lane
from inferlane.errors import UNDECODABLE, DecodeError, InvalidSplitError, clipped, quoted

_NONE: Mapping[str, str] = MappingProxyType({})


# The most versions in a split: a writer to the topic could invent any number.
_MAX_VERSIONS = 1_000
_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Weights = Annotated[dict[_Name, Annotated[float, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=_MAX_VERSIONS)]


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets copies of a share of the unpinned requests of both lanes; clients never see its results."""

    version: _Name
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]


class Split(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The weights of one model's versions: not negative, summing to 1. Versions that are not named get nothing.

    `lane_weights` replaces `weights` in the lanes that it names. A rollout (`inferlane.contracts.rollout`) sets the
    rest: `rollout` is its id, empty in a split that a person made. `generation` fences its writers: a record with a
    smaller one than the model's is passed over. `fallback` is the version that answers what any other version fails or
    would expire on, empty for none.
    """

    model: _Name
    weights: _Weights
    changed_s: float = 0.0
    lane_weights: dict[Lane, _Weights] = {}
    rollout: _Name = ""
    generation: Annotated[int, msgspec.Meta(ge=0, le=2**48)] = 0
    shadow: Shadow | None = None
    fallback: _Name = ""


def make_split(  # noqa: PLR0913 - one for each part of the record
    model: str,
    weights: Mapping[str, float],
    *,
    known: Iterable[str],
    changed_s: float,
    unusable: Mapping[str, str] = _NONE,
    fallback: str = "",
    shadow: Shadow | None = None,
) -> Split:
    """Check and normalise weights. `unusable` has the reasons of versions that cannot be served.

    Raises:
        InvalidSplitError: no weight, a negative or infinite one, a sum of 0, or a version that is not known or
            cannot be served and would get traffic, as a fallback or as a shadow too.
    """
    known = tuple(known)
    for role, version in (("fallback", fallback), ("shadow", "" if shadow is None else shadow.version)):
        if version and version not in known:
            reason = unusable.get(version) or f"the model has: {', '.join(known)}"
            raise InvalidSplitError(f"version {quoted(version)} cannot be the {role} of model {model!r}: {reason}")
        if version and version in unusable:
            raise InvalidSplitError(f"the {role} {version!r} of model {model!r} cannot be served: {unusable[version]}")
    for version, reason in unusable.items():
        if weights.get(version, 0.0) != 0.0:
            raise InvalidSplitError(f"version {version!r} of model {model!r} cannot be served: {reason}")
    unknown = sorted(set(weights) - set(known) - set(unusable))
    if unknown:
        raise InvalidSplitError(f"model {model!r} has no version {quoted(unknown[0])}; it has: {', '.join(known)}")
    for version, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InvalidSplitError(f"the weight of {quoted(version)} is {weight}; it must be a finite number >= 0")
    total = sum(weights.values())
    if not 0 < total < float("inf"):
        raise InvalidSplitError(f"the weights sum to {total}; give at least one version a weight over 0")
    return Split(
        model=model,
        weights={version: weight / total for version, weight in weights.items()},
        changed_s=changed_s,
        fallback=fallback,
        shadow=shadow,
    )


def weights_in_force(
    split: Split | None, *, served: Container[str], default_version: str, lane: Lane | None = None
) -> Mapping[str, float]:
    """Return the weights by which requests of a lane that pin no version are routed; without a lane, the usual ones.

    They are those of the split without the versions that are not served; where that leaves none, the default version
    gets all. Empty if the default version is not served either. They may sum to less than 1: see `shares_of`.
    """
    if split is not None:
        asked = split.weights if lane is None else split.lane_weights.get(lane, split.weights)
        weights = {version: weight for version, weight in asked.items() if weight > 0 and version in served}
        if weights:
            return weights
    return {default_version: 1.0} if default_version in served else {}


def shares_of(weights: Mapping[str, float]) -> Mapping[str, float]:
    """Return the share of the traffic that each weight stands for; together they are 1."""
    total = sum(weights.values())
    return {version: weight / total for version, weight in weights.items()}


encode_split = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Split).decode


def decode_split(raw: bytes) -> Split:
    """Read a record of the split topic.

    Raises:
        DecodeError: it holds no split.
    """
    try:
        return _decode(raw)
    except UNDECODABLE as error:
        raise DecodeError(f"a record of the split topic holds no split: {clipped(str(error))}") from error


@dataclass(frozen=True, slots=True)
class Served:
    """The versions of a model that have workers, and the default version that the last report named."""

    default_version: str = ""
    versions: set[str] = field(default_factory=set)
