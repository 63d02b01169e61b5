"""The catalogue while a process runs: the store at the start, changed by entries; each change is another catalogue."""

from pathlib import Path

import pytest

from inferlane.contracts.catalog_entry import CatalogEntry, VersionState, decode_entry, encode_entry
from inferlane.errors import UnknownModelError, UnusableVersionError
from inferlane.runtime.catalog_table import CatalogTable
from models.catalog import Catalog
from models.catalog_entries import entry_of_store, version_of_entry
from models.live_catalog import LiveCatalog, overlaid
from models.store_reader import load_catalog
from tests.support.fakes.entries import make_entry
from tests.support.fakes.records import make_catalog
from tests.support.fakes.stores import write_tiny_store

RETIRING, RETIRED = VersionState.RETIRING, VersionState.RETIRED


def entries(*made: CatalogEntry) -> dict[str, CatalogEntry]:
    return {entry.key: entry for entry in made}


def names_in(catalog: Catalog) -> list[str]:
    return [f"{version.model}/{version.version}" for version in catalog.all_versions()]


def test_without_entries_what_the_store_holds_is_served() -> None:
    base = make_catalog()
    assert overlaid(base, {}) is base


def test_a_version_that_appears_is_served_with_the_signature_of_its_entry() -> None:
    made = make_entry("fraud", "v1", classes=("no", "yes"), description="cards", location="/store/fraud/v1")
    catalog = overlaid(make_catalog("v1"), entries(made))
    assert names_in(catalog) == ["iris/v1", "fraud/v1"]
    fraud = catalog.model("fraud")
    assert (fraud.default_version, fraud.description) == ("v1", "cards")
    version = fraud.version("v1")
    assert version.signature.inputs[0].shape == (-1, 4)
    assert (version.classes, version.path) == (("no", "yes"), Path("/store/fraud/v1/model.onnx"))


def test_a_retired_version_is_gone_and_its_model_with_the_last() -> None:
    base = make_catalog("v1", "v2")
    one = make_entry("iris", "v1", state=RETIRED)
    assert names_in(overlaid(base, entries(one))) == ["iris/v2"]
    none = overlaid(base, entries(one, make_entry("iris", "v2", state=RETIRED)))
    with pytest.raises(UnknownModelError):
        none.model("iris")
    assert none.faults == ()


def test_a_retiring_version_takes_no_new_requests_and_finishes_the_accepted_ones() -> None:
    base, retiring = make_catalog("v1", "v2"), entries(make_entry("iris", "v2", state=RETIRING))
    to_clients = overlaid(base, retiring)
    with pytest.raises(UnusableVersionError, match="being retired"):
        to_clients.model("iris").version("v2")
    [fault] = to_clients.faults
    assert (fault.model, fault.version) == ("iris", "v2")
    assert names_in(overlaid(base, retiring, serves_retiring=True)) == ["iris/v1", "iris/v2"]


def test_a_model_whose_last_version_retires_says_so() -> None:
    catalog = overlaid(make_catalog("v1"), entries(make_entry("iris", "v1", state=RETIRING)))
    with pytest.raises(UnusableVersionError, match="being retired"):
        catalog.model("iris")


def test_the_default_is_the_version_that_became_it_last() -> None:
    base = make_catalog("v1", "v2", "v3")
    assert overlaid(base, entries(make_entry("iris", "v2"))).model().default_version == "v1"
    chosen = entries(make_entry("iris", "v2", default_since=2), make_entry("iris", "v3", default_since=5))
    assert overlaid(base, chosen).model().default_version == "v3"
    left = chosen | entries(make_entry("iris", "v3", default_since=5, state=RETIRED))
    assert overlaid(base, left).model().default_version == "v2"


def test_an_entry_that_describes_nothing_servable_is_a_fault_and_takes_nobody_with_it() -> None:
    bad = make_entry("fraud", "v2", manifest={"inputs": [{"name": "x", "datatype": "FP99", "shape": [-1]}]})
    catalog = overlaid(make_catalog("v1"), entries(make_entry("fraud", "v1"), bad))
    assert names_in(catalog) == ["iris/v1", "fraud/v1"]
    [fault] = catalog.faults
    assert (fault.model, fault.version) == ("fraud", "v2")
    assert "FP99" in fault.reason


def test_of_two_versions_that_could_not_be_told_apart_one_is_served() -> None:
    catalog = overlaid(make_catalog("v1"), entries(make_entry("iris", "V1")))
    assert names_in(catalog) == ["iris/v1"]
    assert [fault.version for fault in catalog.faults] == ["V1"]


def test_a_version_of_the_store_is_the_entrys_only_with_the_same_digest(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    base = load_catalog(tmp_path, default_model="tiny")
    same = entry_of_store(tmp_path, "tiny", "v1", generation=1, default_since=0)
    assert overlaid(base, entries(same)).model().version("v1") is base.model().version("v1")
    other = overlaid(base, entries(make_entry("tiny", "v1"))).model().version("v1")
    assert (other.digest, other.signature) != (base.model().version("v1").digest, base.model().version("v1").signature)


def test_an_entry_says_all_that_a_store_does(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    sent = encode_entry(entry_of_store(tmp_path, "tiny", "v1", generation=1, default_since=1))
    read = version_of_entry(decode_entry(sent), folder=tmp_path / "tiny" / "v1")
    assert read == load_catalog(tmp_path, default_model="tiny").model().version("v1")


async def test_a_live_catalogue_changes_for_its_readers_at_once_and_remembers_class_names() -> None:
    table = CatalogTable()
    live = LiveCatalog(make_catalog("v1"), table)
    seen: list[list[str]] = []
    live.on_change(lambda catalog: seen.append(names_in(catalog)))
    before = live.current
    await table.apply(0, b"fraud/v1", encode_entry(make_entry("fraud", "v1", classes=("no", "yes"))))
    assert (live.model("fraud").name, list(live.models), live.default_model) == ("fraud", ["iris", "fraud"], "iris")
    assert names_in(before) == ["iris/v1"]
    first = live.model("fraud").version("v1")
    await table.apply(1, b"fraud/v2", encode_entry(make_entry("fraud", "v2", generation=2)))
    assert live.model("fraud").version("v1") is first
    await table.apply(2, b"fraud/v1", encode_entry(make_entry("fraud", "v1", generation=3, state=RETIRED)))
    assert seen == [["iris/v1"], ["iris/v1", "fraud/v1"], ["iris/v1", "fraud/v1", "fraud/v2"], ["iris/v1", "fraud/v2"]]
    assert live.class_names("fraud", "v1") == {"label": ("no", "yes")}
    assert live.class_names("fraud", "v9") == {}
