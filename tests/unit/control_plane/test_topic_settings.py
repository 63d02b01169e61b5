"""Settings with which a topic loses or refuses what the stack wrote to it."""

import pytest

from control_plane.topic_admin import topic_specs
from control_plane.topic_settings import refuse_harmful
from inferlane.contracts.naming import Names
from inferlane.errors import ConfigurationError
from inferlane.runtime.service_settings import WebhookSettings
from inferlane.runtime.settings import KafkaSettings

SPECS = topic_specs(KafkaSettings(), Names(), WebhookSettings(), [("iris", "v1")])
WANTED = {spec.name: spec.config for spec in SPECS}
AS_CREATED = {name: {"cleanup.policy": "delete", **config} for name, config in WANTED.items()}


@pytest.mark.parametrize(
    ("topic", "settings", "says"),
    [
        ("inferlane.splits", {"cleanup.policy": "delete", "retention.ms": "1000"}, "is delete, not compact"),
        ("inferlane.catalog", {"cleanup.policy": "compact,delete"}, "is compact,delete, not compact"),
        ("inferlane.requests", {"cleanup.policy": "compact"}, "is compact, not delete"),
        ("inferlane.iris.v1.bulk", {"retention.ms": "1000"}, "retention.ms is 1000, less than 259200000"),
        ("inferlane.results", {"max.message.bytes": "1000"}, "max.message.bytes is 1000, less than 8454144"),
    ],
)
def test_a_topic_that_loses_or_refuses_records_is_named(topic: str, settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{topic}: .*{says}"):
        refuse_harmful(WANTED, AS_CREATED | {topic: AS_CREATED[topic] | settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"retention.ms": "-1", "max.message.bytes": "99999999"},
        {"retention.ms": "999999999999", "min.insync.replicas": "2"},
    ],
)
def test_what_keeps_more_is_well(settings: dict[str, str]) -> None:
    refuse_harmful(WANTED, {name: config | settings for name, config in AS_CREATED.items()})
    refuse_harmful(WANTED, {})
