"""Give a compacted topic that began anew the records that its followers still have in force."""

import asyncio
import random
from functools import partial

import structlog

from inferlane.errors import InferlaneError
from inferlane.runtime.compacted_table import TableFollower
from inferlane.runtime.service import Background
from inferlane.runtime.table_writes import publish_to_table

log = structlog.get_logger(__name__)

# By chance within this, so that most processes find what the first one has given back.
_WITHIN_S = 2.0
_READ_WITHIN_S = 10.0
_RETRY_S = 10.0


class TableKeeper(TableFollower):
    """A follower that may write the topic, and gives it back what is in force here once it has begun anew.

    A topic begins anew when its broker lost it or somebody deleted and created it. Without its records, processes that
    start later would act on another table than those that read them. Several keepers may give back the same record: a
    table puts the newest of a key in force.
    """

    _keeping: Background | None = None

    async def start(self) -> None:
        """Return when the table holds all that was in the topic.

        Raises:
            UnavailableError: the broker does not answer.
        """
        await super().start()
        self._keeping = Background(partial(self._keep, self._table.beginnings), name=f"{self._table.what} keeper")
        self._keeping.start()

    async def close(self) -> None:
        """Stop following."""
        if self._keeping is not None:
            await self._keeping.close()
        await super().close()

    async def _keep(self, beginnings: int) -> None:
        while True:
            await self._table.begun_anew(beginnings)
            await asyncio.sleep(random.uniform(0, _WITHIN_S))  # noqa: S311 - it hides nothing
            begun = self._table.beginnings
            try:
                await self._give_back()
                beginnings = begun
            except InferlaneError as error:
                log.warning("table_not_given_back", topic=self._partition.topic, error=str(error), retry_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)

    async def _give_back(self) -> None:
        await self.read_to_end(timeout_s=_READ_WITHIN_S)
        lost = self._table.unsaid()
        for key, value in lost.items():
            await publish_to_table(self._kafka, self._partition.topic, key=key, value=value)
        if lost:
            log.warning(
                "table_given_back",
                topic=self._partition.topic,
                records=len(lost),
                reason="the topic began anew without them: its broker lost it, or it was deleted and created again",
            )
