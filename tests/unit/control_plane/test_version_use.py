"""A version that anything still uses is not retired, and the message says what uses it."""

import pytest

from control_plane.version_use import why_in_use
from inferlane.contracts.naming import Lane
from inferlane.contracts.rollout import Phase, RolloutSpec, RolloutState, Step
from inferlane.contracts.traffic_split import Shadow, Split
from tests.support.fakes.records import make_catalog

MODEL = make_catalog().model("iris")
SPEC = RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.05),))


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (Split(model="iris", weights={"v1": 0.9, "v2": 0.1}), "has a weight of 0.1 in the split"),
        (Split(model="iris", weights={"v1": 1.0}, lane_weights={Lane.BULK: {"v2": 1.0}}), "in the lane bulk"),
        (Split(model="iris", weights={"v1": 1.0}, fallback="v2"), "is the fallback in the split"),
        (
            Split(model="iris", weights={"v1": 1.0}, shadow=Shadow(version="v2", share=0.1)),
            "is the shadow in the split",
        ),
    ],
)
def test_a_version_with_any_part_in_the_split_is_in_use(split: Split, says: str) -> None:
    why = why_in_use(MODEL, "v2", rollout=None, split=split)
    assert why is not None
    assert says in why
    assert "POST /v1/traffic-split" in why


def test_a_version_that_the_split_gives_nothing_may_go_unless_it_is_the_default() -> None:
    split = Split(model="iris", weights={"v1": 1.0, "v2": 0.0}, lane_weights={Lane.BULK: {"v1": 1.0}})
    assert why_in_use(MODEL, "v2", rollout=None, split=split) is None
    assert "is the default version" in (why_in_use(MODEL, "v1", rollout=None, split=None) or "")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_of_a_rollout_that_is_not_over_are_in_use(version: str) -> None:
    rollout = RolloutState(id="iris-1", spec=SPEC, phase=Phase.PAUSED)
    why = why_in_use(MODEL, version, rollout=rollout, split=None)
    assert why is not None
    assert "iris-1" in why
    assert "inferlane rollout abort iris-1" in why
