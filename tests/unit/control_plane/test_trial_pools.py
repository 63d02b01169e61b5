"""Versions in a rollout leave the process that they share."""

from msgspec.structs import replace

from control_plane.local.managed_process import StartError
from control_plane.local.trial_pools import TrialPools
from inferlane.contracts.rollout import Phase, RolloutSpec, RolloutState, Step, encode_rollout, key_of
from inferlane.runtime.rollout_table import RolloutTable


def _rollout(model: str, phase: Phase) -> RolloutState:
    spec = RolloutSpec(model=model, candidate="v2", stable="v1", steps=(Step(weight=0.01),))
    return replace(RolloutState(id=model, spec=spec), phase=phase)


async def test_both_versions_of_each_rollout_under_way_get_pools_whatever_goes_wrong_with_one() -> None:
    """Guards the separation: shared, a candidate's cost and crashes are its neighbours' too."""
    table, isolated = RolloutTable(), list[tuple[str, str]]()
    for rollout in (
        _rollout("running", Phase.STEPPING),
        _rollout("over", Phase.PROMOTED),
        _rollout("planned", Phase.DRAFT),
    ):
        table.put(key_of(rollout).decode(), encode_rollout(rollout))

    async def isolate(model: str, version: str) -> None:
        isolated.append((model, version))
        raise StartError("no port")

    await TrialPools(isolate).look(table)
    assert isolated == [("running", "v2"), ("running", "v1")]
