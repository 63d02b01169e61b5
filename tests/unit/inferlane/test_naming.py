"""The prefix of a stack: nothing that it is called is called so in another stack."""

import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from control_plane.kubernetes.deployment_plan import object_name, service_name
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import PREFIX_RULE, Lane, Names, check_model_name, check_version_name, pool_key
from inferlane.errors import ConfigurationError, InvalidNameError
from inferlane.runtime.config import load_settings
from models.store import write_model
from models.store_reader import load_catalog
from router.routing import choose
from tests.support.fakes.stores import write_tiny_onnx, write_tiny_store
from tests.support.fakes.zoo import add_version

VERSIONS = [("iris", "v1"), ("fraud-eu", "2026.1")]
PREFIXES = st.from_regex(PREFIX_RULE, fullmatch=True)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
VERSION = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


def all_names(names: Names, model: str, version: str) -> set[str]:
    """Every topic, group, key and channel of a stack."""
    shared = {getattr(names, name) for name in dir(names) if name[0] != "_" and isinstance(getattr(names, name), str)}
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
    specs = topic_specs(settings.kafka, settings.stack.names, settings.webhooks, VERSIONS)
    assert len(specs) == 9 + 2 * len(VERSIONS)
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
    assert (settings.stack.names.splits, settings.stack.names.outcomes_group) == ("shop.splits", "shop.router.outcomes")


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


@pytest.mark.parametrize("name", ["iris", "ResNet50", "my_model", "fraud-eu", "a", "7b", "x" * 63])
def test_a_name_that_everything_can_hold_is_taken(name: str) -> None:
    check_model_name(name)
    check_version_name(name)
    check_version_name(f"{name[:31]}.{name[:31]}")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "a-", "_a", "a b", "a/b", "a:b", "ä", "x" * 64, "a\n", "a\0", "a%2f", "a,b", "a\u202eb"],
)
def test_a_name_that_something_cannot_hold_is_refused(name: str) -> None:
    for check in (check_model_name, check_version_name):
        with pytest.raises(InvalidNameError, match="Rename it"):
            check(name)


@pytest.mark.parametrize("name", ["a.b", "router", "Requests", "dead-letters", "unknown"])
def test_a_model_is_not_called_as_a_part_of_ours_or_with_the_dot_that_ends_it(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_model_name(name)


@given(NAME, VERSION, NAME, VERSION)
def test_two_versions_with_different_keys_share_no_topic_group_metric_or_object(
    model: str, version: str, model2: str, version2: str
) -> None:
    one, other = (model, version), (model2, version2)
    assume(pool_key(*one) != pool_key(*other))
    ours, theirs = (
        {Names().worker_group(*pair), *(Names().work_topic(*pair, lane) for lane in Lane)} for pair in (one, other)
    )
    for same in (str, str.lower, lambda name: name.replace(".", "_"), object_name):
        assert not {same(name) for name in ours} & {same(name) for name in theirs}
    assert service_name(*one, default_model="") != service_name(*other, default_model="")
    assert max(map(len, ours)) + len("x" * 31) <= 249


def test_of_two_versions_that_cannot_be_told_apart_one_is_served_and_the_other_named(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    for model, version in (
        ("tiny", "V1"),
        ("a", "b-c"),
        ("a-b", "c"),
        ("tiny", "v1.0"),
        ("tiny", "v1-0"),
        ("tiny", "v1_0"),
    ):
        add_version(tmp_path, version, write_tiny_onnx, model=model)
        write_model(tmp_path / model, description="", default_version="v1" if model == "tiny" else version, classes=())
    catalog = load_catalog(tmp_path, default_model="tiny")
    assert {(entry.model, entry.version) for entry in catalog.all_versions()} == {
        ("tiny", "v1"),
        ("tiny", "v1-0"),
        ("a", "b-c"),
    }
    assert {(fault.model, fault.version) for fault in catalog.faults} == {
        ("tiny", "V1"),
        ("tiny", "v1.0"),
        ("tiny", "v1_0"),
        ("a-b", "c"),
    }
    assert all("Rename one of them" in fault.reason for fault in catalog.faults)


def test_a_name_that_nothing_can_hold_is_a_fault_of_the_catalog_and_not_written_to_a_store(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    shutil.copytree(tmp_path / "tiny" / "v1", tmp_path / "tiny" / ("v" * 64))
    shutil.copytree(tmp_path / "tiny", tmp_path / "a.b")
    catalog = load_catalog(tmp_path, default_model="tiny")
    assert [(entry.model, entry.version) for entry in catalog.all_versions()] == [("tiny", "v1")]
    assert {(fault.model, fault.version) for fault in catalog.faults} == {("a.b", None), ("tiny", "v" * 64)}
    for model, version in (("a.b", "v1"), ("a", "v 1")):
        with pytest.raises(InvalidNameError):
            add_version(tmp_path, version, write_tiny_onnx, model=model)


def test_long_names_of_one_head_share_the_traffic_by_their_weights() -> None:
    weights = {f"{'v' * 70}-{name}": 0.5 for name in "ab"}
    shares = Counter(choose(f"user-{number}", weights) for number in range(2_000))
    assert min(shares.values()) > 900
