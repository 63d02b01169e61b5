"""Versions in a rollout leave the process that they share: what is compared must cost and crash by itself."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

import structlog

from inferlane.contracts.rollout import Phase
from inferlane.errors import InferlaneError
from inferlane.runtime.retry import Retrier
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

_LOOK_S = 5.0


class TrialPools:
    """Follows the rollouts topic. Used from one event loop."""

    def __init__(self, isolate: Callable[[str, str], Awaitable[None]]) -> None:
        """`isolate` gives a version a pool of its own; it is called again and again."""
        self._isolate = isolate

    async def run(self, kafka: "KafkaSettings", names: "Names") -> NoReturn:
        """Give the versions of each rollout under way pools of their own, until cancelled."""
        table = RolloutTable()
        follower = RolloutFollower(kafka, names, table)
        await Retrier().until_done(follower.start, stage="rollouts")
        try:
            while True:
                await self.look(table)
                await table.changed(timeout_s=_LOOK_S)
        finally:
            await follower.close()

    async def look(self, table: RolloutTable) -> None:
        """Give the versions of each rollout that is under way now pools of their own."""
        for rollout in table.states:
            if rollout.phase.is_final or rollout.phase is Phase.DRAFT:
                continue
            for version in (rollout.spec.candidate, rollout.spec.stable):
                try:
                    await self._isolate(rollout.spec.model, version)
                except InferlaneError as error:
                    # The rollout goes on where the version is; it is tried again.
                    log.warning("trial_shares_process", model=rollout.spec.model, version=version, error=str(error))
