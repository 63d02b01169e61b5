"""Which calls share an answer: the place of a call follows from the version that would compute it and from its rows."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from inferlane.contracts.lane_tallies import key_bucket
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.outcome_token import OutcomeTokens, TokenContents, label_digest, request_digest
from inferlane.contracts.results import Result, Status
from inferlane.contracts.traffic_split import Shadow, Split
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.service_settings import ApiSettings
from inferlane.runtime.settings import StoreSettings
from inferlane.runtime.split_table import SplitTable
from models.catalog import Catalog
from producer_api.predict.call import Call
from producer_api.predict.response_cache import CachePlace, ResponseCache
from tests.support.fakes.calls import CALL
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import make_catalog, make_version
from tests.support.parts import embedded_store, eventually, free_port

ALL_TO_V1 = Split(model="iris", weights={"v1": 1.0})


def make_cache(
    catalog: Catalog | None = None, split: Split | None = None, redis: Any = None, tokens: OutcomeTokens | None = None
) -> ResponseCache:
    splits = SplitTable()
    if split is not None:
        splits.put("iris", msgspec.json.encode(split))
    parts: Any = {"catalog": catalog or make_catalog(), "splits": splits, "clock": FakeClock(100.0), "tokens": tokens}
    return ResponseCache(
        ApiSettings(response_cache="iris=60, fraud=5"),
        StoreSettings().redis_url,
        Names(),
        redis,
        **parts,
    )


def place(call: Call = CALL, **parts: Any) -> CachePlace:
    found = make_cache(**parts).place(call)
    assert found is not None
    return found


def test_a_call_has_the_place_of_the_version_that_all_traffic_goes_to() -> None:
    assert place().version == "v1"
    assert place(split=ALL_TO_V1) == place() == place(msgspec.structs.replace(CALL, version="v1"))
    assert place(split=Split(model="iris", weights={"v2": 1.0})).version == "v2"
    assert place().ttl_s == 60


@pytest.mark.parametrize(
    "split",
    [
        Split(model="iris", weights={"v1": 0.5, "v2": 0.5}),
        msgspec.structs.replace(ALL_TO_V1, rollout="r1"),
        msgspec.structs.replace(ALL_TO_V1, shadow=Shadow(version="v2", share=0.1)),
        msgspec.structs.replace(ALL_TO_V1, fallback="v2"),
        msgspec.structs.replace(ALL_TO_V1, lane_weights={Lane.BULK: {"v2": 1.0}}),
    ],
)
def test_where_several_versions_may_answer_there_is_no_place_but_for_a_pinned_call(split: Split) -> None:
    cache = make_cache(split=split)
    assert cache.place(CALL) is None
    assert cache.place(msgspec.structs.replace(CALL, version="v2")) is not None


def test_a_model_that_did_not_opt_in_has_no_place() -> None:
    cache = make_cache(make_catalog(models=("iris", "other")))
    assert cache.place(msgspec.structs.replace(CALL, model="other")) is None


def test_another_version_other_files_and_other_rows_have_other_keys() -> None:
    model = make_catalog().models["iris"]
    changed = replace(make_version("v1"), digest="sha256:1")
    rebuilt = Catalog(models={"iris": replace(model, versions={**model.versions, "v1": changed})}, default_model="iris")
    keys = {
        place().key,
        place(msgspec.structs.replace(CALL, version="v2")).key,
        place(msgspec.structs.replace(CALL, payload=b"{} ")).key,
        place(catalog=rebuilt).key,
    }
    assert len(keys) == 4
    # Who asks, and when, does not matter.
    assert place(msgspec.structs.replace(CALL, request_id="x", caller="y", deadline_s=9.0)) == place()


def test_a_call_that_names_a_callback_is_computed() -> None:
    """Only the worker's result is sent there: a kept answer would be a callback that never comes."""
    assert make_cache().place(msgspec.structs.replace(CALL, callback_url="https://a.example")) is None


async def test_a_kept_answer_has_an_outcome_token_of_the_call_with_the_class_of_the_answer() -> None:
    tokens = OutcomeTokens(["a secret"])
    async with embedded_store() as url, connect(url) as redis:
        cache = make_cache(redis=redis, tokens=tokens)
        found = cache.place(CALL)
        assert found is not None
        computed = TokenContents(
            model="iris", version="v1", segment=-1, day=0, request=request_digest("first"), label=label_digest("setosa")
        )
        result = Result(
            request_id="first",
            status=Status.SUCCEEDED,
            model="iris",
            version="v1",
            rows=1,
            content=b"c",
            outcome_token=tokens.sign(computed),
        )
        cache.keep(found, result)
        later = msgspec.structs.replace(CALL, request_id="later", routing_key="ann")

        async def is_kept() -> bool:
            return await cache.find(found, later) is not None

        await eventually(is_kept)
        kept = await cache.find(found, later)
        assert kept is not None
        outcome = tokens.read(kept.outcome_token, now_s=100.0, max_age_s=1.0)
        assert outcome == msgspec.structs.replace(computed, request=request_digest("later"), segment=key_bucket("ann"))
        assert outcome.is_label("setosa")


async def test_a_store_that_is_away_is_a_miss_and_is_not_asked_at_every_call() -> None:
    async with connect(f"redis://127.0.0.1:{free_port()}/0") as redis:
        cache = make_cache(redis=redis)
        found = cache.place(CALL)
        assert found is not None
        assert await cache.find(found, CALL) is None
        cache._redis = None  # type: ignore[assignment]  # whoever asks it now fails
        assert await cache.find(found, CALL) is None


@pytest.mark.parametrize(
    "text", ["iris", "iris=", "iris=0", "iris=-1", "iris=1.5", "=5", "no such name=5", "iris=5;x=1"]
)
def test_a_setting_that_says_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="INFERLANE_RESPONSE_CACHE"):
        load_settings(response_cache=text)
