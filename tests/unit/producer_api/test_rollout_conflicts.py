"""What a person is told who wants a change that a rollout under way does not allow: it is what is taken then."""

import pytest

from inferlane.contracts.rollout import Phase
from producer_api.routes.rollout_conflicts import way_out


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_final])
def test_a_rollout_that_is_rolled_back_is_waited_for_and_any_other_may_be_ended(phase: Phase) -> None:
    assert ("abort" in way_out(phase)) is (phase is not Phase.ROLLING_BACK)
