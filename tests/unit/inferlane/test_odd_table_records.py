"""A record of a followed topic that cannot be read, for whatever reason, costs the table that record alone."""

from collections.abc import Mapping

from inferlane.runtime.compacted_table import CompactedTable


class FragileTable(CompactedTable):
    """A table with an error of ours, which some records meet."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, int] = {}

    def in_force(self) -> Mapping[str, bytes]:
        return {key: b"%d" % value for key, value in self.values.items()}

    def put(self, key: str, value: bytes | None) -> None:
        self.values[key] = 100 // len(value or b"")


async def test_an_error_of_ours_at_one_record_keeps_no_other_from_being_read() -> None:
    """Guards `read`: the record stays in the topic, so every process that follows it ended at each of its starts."""
    table = FragileTable()
    for offset, value in enumerate((b"a", b"", b"ab")):
        await table.apply(offset, b"%d" % offset, value)
    assert table.values == {"0": 100, "2": 50}
    await table.wait_applied(2, timeout_s=1.0)
