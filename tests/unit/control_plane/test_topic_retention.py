"""How long topics keep records: no request is deleted before its deadline, and the rendered topics say the same."""

from itertools import chain

import pytest

from control_plane.autoscaling.capacity_plan import WorkerPace
from control_plane.kubernetes.backing_services import topic_documents
from control_plane.kubernetes.deployment_plan import Waits, make_plan
from control_plane.kubernetes.pod_settings import cluster_settings
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import CALLBACK_STAGES, Lane
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings

VERSION = ("iris", "v1")
DAY_S = 86_400


def retention_s(**chosen: object) -> dict[str, float]:
    """The seconds that each topic keeps, without the tables, which keep the newest record of each key for ever."""
    settings = load_settings(webhooks=True, **chosen)
    specs = topic_specs(settings.kafka, settings.stack.names, settings.webhooks, [VERSION])
    return {spec.name: int(spec.config["retention.ms"]) / 1000 for spec in specs if "retention.ms" in spec.config}


def test_topics_of_requests_and_results_keep_them_for_as_long_as_the_setting_says() -> None:
    names = load_settings().stack.names
    work = [names.work_topic(*VERSION, lane) for lane in Lane]
    kept_s = retention_s(request_retention_s=5 * DAY_S, max_deadline_s=5 * DAY_S)
    held = {name: kept_s.pop(name) for name in chain(names.ingress.values(), work, [names.results])}
    assert set(held.values()) == {5 * DAY_S}
    assert kept_s.items() <= retention_s().items()


def test_a_deadline_that_requests_would_not_live_to_see_is_refused() -> None:
    """It was taken, and Kafka deleted a request that waited for longer than three days."""
    with pytest.raises(
        ConfigurationError, match="INFERLANE_MAX_DEADLINE_S=259201 is above INFERLANE_REQUEST_RETENTION_S="
    ):
        load_settings(max_deadline_s=3 * DAY_S + 1)


def test_the_longest_window_and_the_longest_callback_are_no_longer_than_their_topics_keep() -> None:
    names, kept_s = load_settings().stack.names, retention_s()
    with pytest.raises(ConfigurationError, match="INFERLANE_OUTCOME_WINDOW_S="):
        load_settings(outcome_window_s=int(kept_s[names.outcomes]) + 1)
    callbacks = [names.callbacks, *(names.callback_retries(stage) for stage in range(1, CALLBACK_STAGES + 1))]
    with pytest.raises(ConfigurationError, match="INFERLANE_WEBHOOK_GIVE_UP_S="):
        load_settings(webhook_give_up_s=min(kept_s[name] for name in callbacks))


def test_the_rendered_topics_keep_records_for_the_same_time() -> None:
    chosen = {"webhooks": True, "request_retention_s": 5 * DAY_S}
    settings = cluster_settings(load_settings(**chosen), namespace="n")
    plan = make_plan(
        settings, [VERSION], namespace="n", image="i:1", pace=WorkerPace(row_s=0.005, max_batch_rows=256), waits=Waits()
    )
    specs = [document["spec"] for document in topic_documents(plan)]
    rendered = {
        spec["topicName"]: spec["config"]["retention.ms"] / 1000 for spec in specs if "retention.ms" in spec["config"]
    }
    assert rendered == retention_s(request_retention_s=5 * DAY_S)
