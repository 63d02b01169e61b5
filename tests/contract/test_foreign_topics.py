"""A topic that was made otherwise than ours is found by what it would do to records."""

from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import NewTopic

from control_plane.topic_admin import check_existing, create_topics
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.kafka.clients import make_admin

if TYPE_CHECKING:
    from tests.support.brokers import Broker


async def test_a_topic_that_would_forget_the_splits_is_refused_and_ours_are_not(broker: "Broker") -> None:
    settings = load_settings(kafka_bootstrap_servers=broker.bootstrap_servers)
    wanted = (settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
    admin = make_admin(settings.kafka)
    try:
        await admin.start()
        short = NewTopic("inferlane.splits", 1, 1, topic_configs={"cleanup.policy": "delete", "retention.ms": "1000"})
        await admin.create_topics([short])
    finally:
        await admin.close()

    assert "inferlane.splits" not in await create_topics(*wanted)
    with pytest.raises(ConfigurationError, match=r"inferlane\.splits: cleanup\.policy is delete, not compact\. Rec"):
        await check_existing(*wanted)
