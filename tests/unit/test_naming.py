"""The prefix of a stack: nothing that it is called is called so in another stack."""

import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.config import load_settings
from inferlane.errors import ConfigurationError
from inferlane.naming import PREFIX_RULE, Lane, Names
from inferlane.topics import topic_specs

VERSIONS = [("iris", "v1"), ("fraud-eu", "2026.1")]
PREFIXES = st.from_regex(PREFIX_RULE, fullmatch=True)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
VERSION = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


def all_names(names: Names, model: str, version: str) -> set[str]:
    """Every topic, group, key and channel of a stack."""
    shared = {getattr(names, name) for name in dir(names) if isinstance(getattr(names, name), str) and name[0] != "_"}
    own = {*names.ingress.values(), names.worker_group(model, version), names.store_key("result", version)}
    return shared - {names.prefix} | own | {names.work_topic(model, version, lane) for lane in Lane}


@given(PREFIXES, PREFIXES, NAME, NAME, VERSION, VERSION)
def test_two_prefixes_share_no_name_not_even_in_kafkas_metrics(
    one: str, other: str, model: str, model2: str, version: str, version2: str
) -> None:
    ours, theirs = (
        {name.replace(".", "_") for name in all_names(Names(prefix), *pair)}
        for prefix, pair in ((one, (model, version)), (other, (model2, version2)))
    )
    assert one == other or not ours & theirs


@given(PREFIXES)
def test_every_topic_of_a_stack_begins_with_its_prefix_and_is_one_that_kafka_takes(prefix: str) -> None:
    settings = load_settings(prefix=prefix)
    specs = topic_specs(settings, VERSIONS)
    assert len(specs) == 6 + 2 * len(VERSIONS)
    for spec in specs:
        assert re.fullmatch(rf"{prefix}\.[a-zA-Z0-9._-]{{1,200}}", spec.name)


@pytest.mark.parametrize("prefix", ["", "a.b", "a_b", "A", "-a", "a-", "a b", "a" * 41, "ä"])
def test_a_prefix_that_could_be_spelled_otherwise_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="INFERLANE_PREFIX="):
        load_settings(prefix=prefix)


def test_the_prefix_reaches_a_process_of_the_stack_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERLANE_PREFIX", "shop")
    settings = load_settings()
    assert settings.environment()["INFERLANE_PREFIX"] == "shop"
    assert (settings.names.splits, settings.names.outcomes_group) == ("shop.splits", "shop.router.outcomes")


def test_the_names_of_the_default_prefix_are_those_that_are_documented() -> None:
    names: dict[str, Any] = {
        "inferlane.requests": Names().ingress[Lane.REQUESTS],
        "inferlane.bulk": Names().ingress[Lane.BULK],
        "inferlane.results": Names().results,
        "inferlane.outcomes": Names().outcomes,
        "inferlane.dead-letters": Names().dead_letters,
        "inferlane.router": Names().router_group,
        "inferlane:result:x": Names().store_key("result", "x"),
    }
    assert all(documented == name for documented, name in names.items())
    assert {Names().work_topic(*pair, lane) for pair, lane in product(VERSIONS, Lane)} >= {"inferlane.iris.v1.bulk"}
