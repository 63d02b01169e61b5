"""What keeps a version from being retired: a rollout, the split, or that it is the default. Pure."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferlane.contracts.rollout import RolloutState
    from inferlane.contracts.traffic_split import Split
    from models.catalog import Model


def why_in_use(model: "Model", version: str, *, rollout: "RolloutState | None", split: "Split | None") -> str | None:
    """Return what uses a version of a model with several, and the remedy; None if it may be retired.

    `rollout` is the one of the model that is not over.
    """
    others = [name for name in model.versions if name != version]
    if rollout is not None and version in {rollout.spec.candidate, rollout.spec.stable}:
        return (
            f"{version!r} of {model.name!r} is part of the rollout {rollout.id}, which is {rollout.phase}. End it "
            f"first: inferlane rollout abort {rollout.id} --reason …"
        )
    if split is not None and (role := _role_in(split, version)):
        return (
            f"{version!r} {role} in the split of {model.name!r}. Set a split without it first: POST /v1/traffic-split "
            f"with the weights of {', '.join(others)}"
        )
    if model.default_version == version:
        return (
            f"{version!r} is the default version of {model.name!r}. Make another one the default first: "
            f"inferlane models default {model.name}/{others[0]}"
        )
    return None


def _role_in(split: "Split", version: str) -> str:
    """Return what a version does in a split, "" for nothing."""
    if split.weights.get(version, 0.0) > 0:
        return f"has a weight of {split.weights[version]:.3g}"
    for lane, weights in split.lane_weights.items():
        if weights.get(version, 0.0) > 0:
            return f"has a weight of {weights[version]:.3g} in the lane {lane}"
    if version == split.fallback:
        return "is the fallback"
    return "is the shadow" if split.shadow is not None and split.shadow.version == version else ""
