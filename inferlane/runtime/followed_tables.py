"""The compacted topics that API and router follow as tables: traffic splits, the catalogue and rollouts."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from inferlane.runtime.catalog_table import CatalogFollower, CatalogTable
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable
from inferlane.runtime.split_table import SplitFollower, SplitTable

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.service import Startup
    from inferlane.runtime.settings import KafkaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedTables:
    """The tables, and who keeps each up to date with its topic."""

    splits: SplitTable
    catalog: CatalogTable
    rollouts: RolloutTable
    split_follower: SplitFollower
    catalog_follower: CatalogFollower
    rollout_follower: RolloutFollower

    @classmethod
    async def open(cls, stack: AsyncExitStack, kafka: "KafkaSettings", names: "Names", startup: "Startup") -> Self:
        """Return when each table holds all that was in its topic; `stack` ends the following.

        Raises:
            StoppedEarlyError: the process was told to stop before the broker was available.
        """
        splits, catalog, rollouts = SplitTable(), CatalogTable(), RolloutTable()
        tables = cls(
            splits=splits,
            catalog=catalog,
            rollouts=rollouts,
            split_follower=SplitFollower(kafka, names, splits),
            catalog_follower=CatalogFollower(kafka, names, catalog),
            rollout_follower=RolloutFollower(kafka, names, rollouts),
        )
        for follower in (tables.split_follower, tables.catalog_follower, tables.rollout_follower):
            await startup.wait_for("topics", follower.start)
            stack.push_async_callback(follower.close)
        return tables

    async def read_decisions_to_end(self, *, timeout_s: float) -> None:
        """Return when the tables of rollouts and splits hold what is in their topics now.

        Raises:
            UnavailableError: they could not be read within `timeout_s` each.
        """
        await self.rollout_follower.read_to_end(timeout_s=timeout_s)
        await self.split_follower.read_to_end(timeout_s=timeout_s)
