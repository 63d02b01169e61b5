"""A rollout on the live page: where it is, and when it leaves the page."""

from msgspec.structs import replace

from dashboards.live.rollout_card import rollout_cards
from inferlane.contracts.rollout import Check, Phase, RolloutSpec, RolloutState, Step, Verdict

SPEC = RolloutSpec(
    model="iris",
    candidate="v2",
    stable="v1",
    steps=(Step(shadow=0.1, min_requests=2_000), Step(weight=0.05), Step(weight=0.5)),
)
STATE = RolloutState(
    id="iris-1",
    spec=SPEC,
    phase=Phase.STEPPING,
    step=1,
    requests_in_step=87,
    waits_for="87 of 500 requests",
    reason="the pool is ready",
    verdicts=(Verdict(check=Check.ERRORS, says="same within 0.3 points", low=-0.003, high=0.002),),
)


def test_a_card_shows_the_step_what_is_missing_and_each_interval_in_points() -> None:
    (card,) = rollout_cards([STATE], now_s=10_000.0)
    assert card.steps == ("shadow 10% for 2000 requests", "5%", "50%")
    assert (card.step, card.requests, card.says) == (1, 87, "87 of 500 requests")
    (check,) = card.checks
    assert (check.check, check.low, check.high) == ("errors", -0.3, 0.2)


def test_a_rollout_that_bakes_is_past_every_step() -> None:
    baking = replace(STATE, phase=Phase.BAKING)
    paused = replace(STATE, phase=Phase.PAUSED, paused_from=Phase.BAKING)
    assert [card.step for card in rollout_cards([baking, paused], now_s=0.0)] == [3, 3]


def test_a_rollout_that_is_over_leaves_the_page_after_ten_minutes() -> None:
    over = replace(STATE, phase=Phase.ROLLED_BACK, phase_since_s=1_000.0)
    assert [card.phase for card in rollout_cards([over], now_s=1_500.0)] == ["rolled back"]
    assert rollout_cards([over], now_s=1_700.0) == ()


def test_a_rollout_under_way_is_above_those_that_are_over() -> None:
    refused = replace(STATE, id="iris-2", phase=Phase.FAILED, phase_since_s=990.0)
    assert [card.id for card in rollout_cards([refused, STATE], now_s=1_000.0)] == ["iris-1", "iris-2"]
