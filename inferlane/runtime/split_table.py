"""Traffic splits: weights of a model's versions, kept in a compacted topic that every replica reads whole."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from inferlane.contracts.traffic_split import Split, decode_split, encode_split
from inferlane.errors import DecodeError
from inferlane.runtime.compacted_table import CompactedTable
from inferlane.runtime.table_keeper import TableKeeper
from inferlane.runtime.table_writes import publish_to_table

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# The most models in a table: a writer to the topic could invent any number.
_MAX_MODELS = 1_000


class SplitTable(CompactedTable):
    """Every split in force on this replica, in the order of the topic.

    A split with a smaller generation than the model's is ignored: the rollout controller that wrote it had been
    replaced. A split without a generation comes from an API older than rollouts, and is put in force.
    """

    what = "split"

    def __init__(self) -> None:
        super().__init__()
        self._splits: dict[str, Split] = {}
        self._passed_over: set[str] = set()

    def get(self, model: str) -> Split | None:
        """Return the split of a model, or None while nobody has set one."""
        return self._splits.get(model)

    def is_newest_passed_over(self, model: str) -> bool:
        """Return whether the model's last record was ignored: compaction would then keep the wrong split."""
        return model in self._passed_over

    def in_force(self) -> Mapping[str, bytes]:
        """Return the splits by model, as the topic has them."""
        return {model: encode_split(split) for model, split in self._splits.items()}

    def put(self, key: str, value: bytes | None) -> None:
        """Put a split in force; a tombstone removes it.

        Raises:
            DecodeError: the split cannot be read, or the table is full.
        """
        if value is None:
            self._splits.pop(key, None)
            self._passed_over.discard(key)
            return
        split = decode_split(value)
        if split.model not in self._splits and len(self._splits) >= _MAX_MODELS:
            raise DecodeError(f"there are splits of {_MAX_MODELS} models already, more are not kept")
        held = self._splits.get(split.model)
        if held is not None and 0 < split.generation < held.generation:
            self._passed_over.add(split.model)
            return
        self._passed_over.discard(split.model)
        self._splits[split.model] = split


class SplitFollower(TableKeeper):
    """Keeps a table of splits up to date with the topic."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", table: SplitTable) -> None:
        super().__init__(kafka, table, topic=names.splits)


async def publish_split(kafka: "KafkaSettings", names: "Names", split: Split) -> int:
    """Write a split to the topic and return its offset.

    Raises:
        UnavailableError: the broker does not answer; the split may have been written.
    """
    return await publish_to_table(kafka, names.splits, key=split.model, value=encode_split(split))
