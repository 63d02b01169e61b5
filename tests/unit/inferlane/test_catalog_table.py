"""The catalogue topic: bounded, read by anybody, and the later of two records of a version holds."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.catalog_entry import VersionState, decode_entry, encode_entry
from inferlane.errors import DecodeError
from inferlane.runtime.catalog_table import CatalogTable
from tests.support.fakes.entries import make_entry


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_decode_errors(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_entry(raw)


def test_an_entry_is_read_as_it_was_written() -> None:
    entry = make_entry("fraud", "v1", classes=("no", "yes"), default_since=3, location="s3://models/fraud/v1")
    assert decode_entry(encode_entry(entry)) == entry


@pytest.mark.parametrize("name", ["", "a/b", "router", "../x", "ä"])
def test_a_name_that_no_topic_could_have_is_refused(name: str) -> None:
    with pytest.raises(DecodeError, match="name"):
        decode_entry(encode_entry(make_entry(name, "v1")))


async def test_the_later_generation_holds_whatever_is_written_last_and_a_tombstone_removes_it() -> None:
    table, changes = CatalogTable(), []
    table.on_change(lambda: changes.append(dict(table.entries)))
    retiring = make_entry("fraud", "v1", state=VersionState.RETIRING, generation=5)
    await table.apply(0, b"fraud/v1", encode_entry(retiring))
    await table.apply(1, b"fraud/v1", encode_entry(make_entry("fraud", "v1", generation=4)))
    assert table.get("fraud", "v1") == retiring
    assert table.next_generation("fraud", now_s=0.001) == 6
    # A broker that lost the topic does not lead back to generations that processes hold.
    assert CatalogTable().next_generation("fraud", now_s=0.009) == 9
    await table.apply(2, b"fraud/v1", None)
    assert table.get("fraud", "v1") is None
    assert changes == [{"fraud/v1": retiring}, {}]


async def test_a_record_that_cannot_be_read_changes_nothing_and_does_not_stop_the_table() -> None:
    table = CatalogTable()
    await table.apply(0, b"fraud/v1", b"{}")
    await table.apply(1, b"fraud/v2", encode_entry(make_entry("fraud", "v1")))
    assert dict(table.entries) == {}
    await table.wait_applied(1, timeout_s=1)


async def test_versions_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferlane.runtime.catalog_table._MAX_ENTRIES", 3)
    table = CatalogTable()
    for number in range(9):
        await table.apply(number, f"fraud/v{number}".encode(), encode_entry(make_entry("fraud", f"v{number}")))
    assert list(table.entries) == ["fraud/v0", "fraud/v1", "fraud/v2"]


def test_a_manifest_does_not_hold_the_record_that_it_came_in() -> None:
    entry = decode_entry(encode_entry(make_entry("fraud", "v1")))
    assert msgspec.json.decode(entry.manifest)["quantization"] == "none"
