"""A stack on a fresh disk, whose models are known to the catalogue topic alone."""

from pathlib import Path

import pytest

from control_plane.topic_admin import create_topics
from inferlane.runtime.catalog_table import publish_entry
from models.catalog_entries import entry_of_store
from tests.support.brokers import Broker
from tests.support.fakes.stores import write_tiny_store
from tests.support.folder_stack import FolderStack

pytestmark = pytest.mark.timeout(600)

_ROWS = {"instances": [[1.0, 2.0, 3.0]], "timeout_s": 60}


async def test_a_stack_without_a_store_serves_what_the_catalogue_topic_names(broker: Broker, tmp_path: Path) -> None:
    settings = broker.settings()
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [])
    stack = FolderStack(
        tmp_path / "fresh",
        **broker.environment(ingress_partitions=1, work_partitions=1),
    )
    refused = stack.run("up", "--detach")
    assert (refused.returncode, "no models in" in refused.stderr) == (1, True), refused.stdout + refused.stderr

    write_tiny_store(tmp_path / "shared")
    entry = entry_of_store(tmp_path / "shared", "tiny", "v1", generation=1, default_since=1)
    await publish_entry(settings.kafka, settings.stack.names, entry)
    try:
        started = stack.run("up", "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        status, answer = stack.call("/v1/models/predict", _ROWS)
        assert status == 200, answer
        assert (answer["model"], answer["version"]) == ("tiny", "v1")
        [pulled] = (tmp_path / "fresh" / "state" / "pulled").iterdir()
        assert pulled.name == entry.digest.removeprefix("sha256:")
    finally:
        stack.run("down")
