"""Who may call what shows or takes data of a trial, and which feedback is refused before it is sent."""

from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import pytest
from fastapi import Request
from starlette.types import Message

from inferlane.contracts.feedback import Feedback
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.outcome_token import OutcomeTokens, TokenContents, day_of, label_digest
from inferlane.contracts.traffic_split import Split, encode_split
from inferlane.errors import InvalidRequestError, InvalidRolloutError
from inferlane.runtime.config import load_settings
from inferlane.runtime.rollout_table import RolloutFollower, RolloutTable
from inferlane.runtime.split_table import SplitFollower, SplitTable
from producer_api.http.auth import Scope, required_scope
from producer_api.predict.enqueuer import FeedbackSender
from producer_api.routes.rollouts import start_rollout
from tests.support.fakes.records import make_catalog

NOW_S = 1_800_000_000.0
TOKENS = OutcomeTokens(["a secret"])


class FakeProducer:
    def __init__(self) -> None:
        self.sent: list[OutRecord] = []

    async def send(self, records: Sequence[OutRecord]) -> None:
        self.sent += records


def token(label: bytes = b"") -> str:
    return TOKENS.sign(
        TokenContents(model="iris", version="v1", segment=-1, day=day_of(NOW_S), request=b"r" * 8, label=label)
    )


def test_inputs_of_other_callers_are_shown_to_admins_alone_and_feedback_is_given_by_who_predicts() -> None:
    assert required_scope("GET", "/v1/shadows/iris/v2") is Scope.ADMIN
    assert required_scope("HEAD", "/v1/shadows/iris/v2") is Scope.ADMIN
    assert required_scope("POST", "/v1/feedback") is Scope.PREDICT
    assert required_scope("PUT", "/v1/feedback") is Scope.ADMIN


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (Feedback(token=token()), "neither a `label` nor a `reward`"),
        (Feedback(token=token(), label="setosa"), "no predicted class"),
        (Feedback(token="x", reward=1.0), "not base64"),  # noqa: S106 - no token at all
    ],
)
async def test_a_piece_that_could_not_be_counted_is_refused_and_none_of_its_list_is_sent(
    piece: Feedback, says: str
) -> None:
    producer = FakeProducer()
    sender = FeedbackSender(producer, TOKENS, topic="t", max_age_s=86_400.0)  # type: ignore[arg-type]  # of the same shape
    good = Feedback(token=token(label_digest("setosa")), label="setosa")
    with pytest.raises(InvalidRequestError, match=f"feedback 1: .*{says}"):
        await sender.send([good, piece], now_s=NOW_S)
    assert producer.sent == []
    await sender.send([good], now_s=NOW_S)
    assert [(record.topic, record.key) for record in producer.sent] == [("t", b"iris/v1")]


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ({"prometheus": {"query": "up", "min": 1}}, "INFERLANE_PROMETHEUS_URL"),
        ({"quality": {}}, "INFERLANE_FEEDBACK_SECRET"),
        ({"errors": {}, "reward": {"margin": 2}}, "INFERLANE_FEEDBACK_SECRET"),
    ],
)
async def test_a_rollout_with_a_check_that_nothing_here_could_feed_is_refused(checks: object, says: str) -> None:
    with pytest.raises(InvalidRolloutError, match=says):
        await start({"checks": checks}, splits=SplitTable())


async def start(asked: dict[str, object], *, splits: SplitTable) -> None:
    body = msgspec.json.encode({"model": "iris", "candidate": "v2", **asked})

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    settings, rollouts = load_settings(), RolloutTable()
    # Neither is started: the tables hold what they hold.
    services = SimpleNamespace(
        catalog=make_catalog("v1", "v2", "v3"),
        splits=splits,
        follower=SplitFollower(settings.kafka, settings.stack.names, splits),
        rollouts=rollouts,
        rollout_follower=RolloutFollower(settings.kafka, settings.stack.names, rollouts),
        settings=settings,
    )
    await start_rollout(Request({"type": "http"}, receive), services)  # type: ignore[arg-type]  # what it gets to


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"v1": 0.5, "v3": 0.5}, "v3 of iris has traffic too, and a rollout is between two versions"),
        ({"v2": 0.9, "v1": 0.1}, "'v2' is the candidate and the stable version"),
    ],
)
async def test_a_rollout_does_not_begin_while_another_version_has_the_traffic(
    weights: dict[str, float], says: str
) -> None:
    splits = SplitTable()
    splits.put("iris", encode_split(Split(model="iris", weights=weights)))
    with pytest.raises(InvalidRolloutError, match=says):
        await start({}, splits=splits)
