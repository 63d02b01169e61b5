"""What the API knows of a version that appears, or goes, while it runs."""

import pytest

from inferlane.contracts.catalog_entry import CatalogEntry, VersionState, encode_entry
from inferlane.errors import UnusableVersionError
from inferlane.runtime.catalog_table import CatalogTable
from inferlane.runtime.config import load_settings
from inferlane.runtime.metrics.instruments import REGISTRY
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.live_catalog import LiveCatalog
from producer_api.predict.admission import Admission
from producer_api.predict.call import CallReader
from producer_api.predict.telemetry import ResponseMetrics
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.entries import make_entry
from tests.support.fakes.records import make_catalog
from tests.support.fakes.simulated_queue import SimulatedQueue

# Two numbers a row, where `iris` has four.
PAIR = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 2], "allow_nan": False}]}


class Topic:
    """The catalogue topic, and the catalogue that follows it."""

    def __init__(self) -> None:
        self._table = CatalogTable()
        self._offset = 0
        self.catalog = LiveCatalog(make_catalog("v1", "v2"), self._table)

    async def write(self, entry: CatalogEntry) -> None:
        await self._table.apply(self._offset, entry.key.encode(), encode_entry(entry))
        self._offset += 1


def reader_of(topic: Topic) -> CallReader:
    settings = load_settings()
    return CallReader(
        settings.api,
        settings.kafka,
        settings.webhooks,
        catalog=topic.catalog,
        splits=SplitTable(),
        clock=SystemClock(),
    )


async def test_calls_of_a_version_that_appears_are_read_by_its_signature_until_it_retires() -> None:
    topic = Topic()
    reader = reader_of(topic)
    await topic.write(make_entry("fraud", "v1", manifest=PAIR))
    assert reader.read(b'{"model": "fraud", "instances": [[1, 2]]}').model == "fraud"
    assert reader.read(b'{"model": "fraud", "version": "v1", "instances": [[1, 2]]}').version == "v1"
    await topic.write(make_entry("fraud", "v1", manifest=PAIR, state=VersionState.RETIRING, generation=2))
    with pytest.raises(UnusableVersionError, match="being retired"):
        reader.read(b'{"model": "fraud", "version": "v1", "instances": [[1, 2]]}')


async def test_unpinned_calls_are_read_by_the_new_default_as_soon_as_it_is_the_default() -> None:
    topic = Topic()
    reader = reader_of(topic)
    unpinned = b'{"instances": [[1, 2, 3, 4]]}'
    assert reader.read(unpinned).model == "iris"
    await topic.write(make_entry("iris", "v3", manifest=PAIR, default_since=1))
    assert reader.read(b'{"instances": [[1, 2]]}').model == "iris"


async def test_admission_watches_a_version_that_appears_and_forgets_a_retired_one() -> None:
    topic, config, clock = Topic(), load_settings(), FakeClock()
    admission = Admission(
        config.api,
        config.kafka,
        config.stack.names,
        catalog=topic.catalog,
        splits=SplitTable(),
        positions=SimulatedQueue(config, clock, {}),
        clock=clock,
    )
    known = admission._versions["iris", "v1"]
    await topic.write(make_entry("iris", "v3"))
    admission.admit("iris", "v3", within_s=1)
    assert set(admission._versions) == {("iris", "v1"), ("iris", "v2"), ("iris", "v3")}
    await topic.write(make_entry("iris", "v3", generation=2, state=VersionState.RETIRED))
    assert set(admission._versions) == {("iris", "v1"), ("iris", "v2")}
    assert admission._versions["iris", "v1"] is known
    # A call that was read before the version went.
    admission.admit("iris", "v3", within_s=1)


async def test_a_version_that_appears_has_series_of_its_own_and_a_strange_name_still_has_none() -> None:
    topic = Topic()
    metrics = ResponseMetrics(topic.catalog)
    await topic.write(make_entry("fraud", "v7"))
    metrics.observe_response("fraud", "v7", status=200, reason=None, took_s=0.1)
    metrics.observe_response("fraud", "v8", status=200, reason=None, took_s=0.1)
    versions = {
        sample.labels["version"]
        for family in REGISTRY.collect()
        if family.name == "inferlane_api_answers"
        for sample in family.samples
        if sample.labels["model"] == "fraud"
    }
    assert versions == {"v7", "unknown"}
