"""The catalogue topic as a table: which versions are served, retiring or retired, on every replica alike."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from inferlane.contracts.catalog_entry import CatalogEntry, decode_entry, encode_entry, entry_key
from inferlane.errors import DecodeError
from inferlane.runtime.compacted_table import CompactedTable, TableFollower
from inferlane.runtime.table_keeper import TableKeeper
from inferlane.runtime.table_writes import publish_to_table

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# The most versions in a table, retired ones too: a writer to the topic could invent any number.
_MAX_ENTRIES = 10_000


class CatalogTable(CompactedTable):
    """The catalogue entries in force on this replica."""

    what = "catalogue"

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[str, CatalogEntry] = {}
        self._on_change: Callable[[], None] = lambda: None
        self._is_changed = False

    def on_change(self, call: Callable[[], None]) -> None:
        """Call `call` on the event loop when changes come into force: once for all changes that were read together."""
        self._on_change = call

    def get(self, model: str, version: str) -> CatalogEntry | None:
        """Return the entry of a version, or None if the topic says nothing of it."""
        return self._entries.get(entry_key(model, version))

    @property
    def entries(self) -> Mapping[str, CatalogEntry]:
        """All entries by key."""
        return self._entries

    def next_generation(self, model: str, *, now_s: float) -> int:
        """Return the generation of a change that is made now: milliseconds, and in any case higher than the last one.

        It is a time, so that it rises even if the topic is lost: an embedded broker forgets it on a restart, while
        processes keep what they read from it.
        """
        last = max((entry.generation for entry in self._entries.values() if entry.model == model), default=0)
        return max(last + 1, int(now_s * 1000))

    def in_force(self) -> Mapping[str, bytes]:
        """Return the entries by key, as the topic has them."""
        return {key: encode_entry(entry) for key, entry in self._entries.items()}

    def put(self, key: str, value: bytes | None) -> None:
        """Put an entry in force unless a later one is; a tombstone removes it.

        Raises:
            DecodeError: it cannot be read, is under another key, or there are too many.
        """
        is_changed = self._entries.pop(key, None) is not None if value is None else self._put(key, decode_entry(value))
        self._is_changed = self._is_changed or is_changed

    async def note_position(self, position: int) -> None:
        """Note that every record before `position` is in force, once the followers of changes were called."""
        if self._is_changed:
            self._is_changed = False
            self._on_change()
        await super().note_position(position)

    def _put(self, key: str, entry: CatalogEntry) -> bool:
        if entry.key != key:
            raise DecodeError(f"the entry of {entry.key} is under the key {key!r}")
        known = self._entries.get(key)
        if known is None and len(self._entries) >= _MAX_ENTRIES:
            raise DecodeError(f"there are {_MAX_ENTRIES} versions already, more are not kept")
        if known is not None and known.generation > entry.generation:
            return False
        self._entries[key] = entry
        return True


class CatalogFollower(TableFollower):
    """Keeps a table up to date with the topic. Without a topic, the versions of the model store at start are served."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", table: CatalogTable) -> None:
        super().__init__(kafka, table, topic=names.catalog, may_be_missing=True)


class CatalogKeeper(TableKeeper):
    """A follower of whoever may change the catalogue."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", table: CatalogTable) -> None:
        super().__init__(kafka, table, topic=names.catalog, may_be_missing=True)


async def read_catalog_topic(kafka: "KafkaSettings", names: "Names") -> CatalogTable:
    """Return the table as the topic is now; empty if there is no topic.

    Raises:
        UnavailableError: the broker does not answer.
    """
    table = CatalogTable()
    follower = CatalogFollower(kafka, names, table)
    try:
        await follower.start()
    finally:
        await follower.close()
    return table


async def publish_entry(kafka: "KafkaSettings", names: "Names", entry: CatalogEntry) -> int:
    """Write an entry to the topic and return its offset.

    Raises:
        UnavailableError: the broker does not answer; the entry may or may not be written.
    """
    return await publish_to_table(kafka, names.catalog, key=entry.key, value=encode_entry(entry))
