"""Where a worker gets a version that its store lacks, through a real catalogue topic."""

import asyncio
import threading
from pathlib import Path

import msgspec
import pytest

from control_plane.topic_admin import create_topics
from inferlane.contracts.catalog_entry import VersionState
from inferlane.errors import ConfigurationError, UnknownModelError
from inferlane.runtime.catalog_table import publish_entry
from models.catalog_entries import entry_of_store
from models.pulling import pull
from tests.support.brokers import Broker
from tests.support.fakes.entries import make_entry
from tests.support.fakes.stores import write_tiny_store
from workers import version_source
from workers.version_source import find_version

PULLED_BY_S = 10.0

pytestmark = pytest.mark.timeout(300)


async def test_a_worker_serves_what_its_store_lacks_from_where_the_catalogue_says(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_store(tmp_path / "shared")
    write_tiny_store(tmp_path / "own")
    settings = broker.settings(
        prefix="pulled", models_dir=tmp_path / "own", state_dir=tmp_path / "state", default_model="tiny"
    )
    version, default = await find_version(settings.kafka, settings.stack, "tiny", "v1")
    assert (version.path, default) == (tmp_path / "own" / "tiny" / "v1" / "model.onnx", "v1")
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    with pytest.raises(UnknownModelError, match="fraud"):
        await find_version(settings.kafka, settings.stack, "fraud", "v1")
    described = entry_of_store(tmp_path / "shared", "tiny", "v1", generation=1, default_since=1)
    told = make_entry("fraud", "v1", location=described.location, digest=described.digest, default_since=1)
    await publish_entry(
        settings.kafka, settings.stack.names, msgspec.structs.replace(told, manifest=described.manifest)
    )
    # Other versions of the process are served meanwhile: the files are pulled beside the event loop.
    beside = threading.Event()
    asyncio.get_running_loop().call_later(0, beside.set)
    monkeypatch.setattr(version_source, "pull", lambda *asked: pull(*asked) if beside.wait(PULLED_BY_S) else None)
    version, default = await find_version(settings.kafka, settings.stack, "fraud", "v1")
    assert version.path.is_relative_to(tmp_path / "state" / "pulled")
    assert (version.model, version.version, default) == ("fraud", "v1", "v1")
    # Without a store of its own, too.
    empty = settings.changed(models_dir=tmp_path / "nothing")
    assert (await find_version(empty.kafka, empty.stack, "fraud", "v1"))[0] == version
    await publish_entry(
        settings.kafka, settings.stack.names, make_entry("fraud", "v1", generation=2, state=VersionState.RETIRED)
    )
    with pytest.raises(ConfigurationError):
        await find_version(empty.kafka, empty.stack, "fraud", "v1")
