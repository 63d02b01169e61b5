"""Versions that a command names: one rule of names for all, whoever reads them."""

import pytest

from control_plane.cli.provisioning_commands import chosen_versions
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings


def test_pairs_and_versions_of_the_default_model_are_chosen() -> None:
    assert chosen_versions(load_settings(default_model="iris").stack, ["v1", "digits/v2.1"]) == [
        ("iris", "v1"),
        ("digits", "v2.1"),
    ]


@pytest.mark.parametrize("name", ["", "iris/", "/v1", "iris/v 1", "router/v1", "a.b/v1", "iris/-v1"])
def test_a_name_that_no_version_may_have_names_none(name: str) -> None:
    """Guards the rule of `contracts.naming` here: topics were made for names that nothing serves (seen to fail so)."""
    with pytest.raises(ConfigurationError, match="names no version; write MODEL/VERSION"):
        chosen_versions(load_settings().stack, [name])
